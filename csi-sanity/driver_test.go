package sanity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	readyWithin = 30 * time.Second
	stopWithin  = 30 * time.Second
)

// ground is where a pool lies.
type ground int

const (
	inFile ground = iota
	inDirectory
	onDisk
)

// driver is one `rockpool standalone` with one pool, all of it below one directory.
type driver struct {
	t                                 *testing.T
	program, dir                      string
	pool, config, socket, kubelet, at string // at: the file, directory or disk of the pool
	process                           *exec.Cmd
	exited                            chan error
	conn                              *grpc.ClientConn
}

// newDriver prepares the pool; nothing runs yet.
func newDriver(t *testing.T, program, kind string, on ground) *driver {
	t.Helper()
	dir := workDir(t)
	d := &driver{
		t: t, program: program, dir: dir, pool: "sanity-" + filepath.Base(dir)[len("rps-"):],
		config: filepath.Join(dir, "rockpool.toml"), socket: filepath.Join(dir, "run", "csi.sock"),
		kubelet: filepath.Join(dir, "kubelet"), at: filepath.Join(dir, "pool"),
	}
	for _, made := range []string{filepath.Dir(d.socket), d.kubelet} {
		if err := os.Mkdir(made, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var arguments []string
	switch on {
	case inFile:
		arguments = []string{"--file", d.at, "--size", poolSize}
	case inDirectory:
		if err := os.Mkdir(d.at, 0o700); err != nil {
			t.Fatal(err)
		}
		arguments = []string{"--directory", d.at, "--quota", "none"}
	case onDisk:
		d.at = os.Getenv("SANITY_DISK")
		arguments = []string{"--device", d.at}
	}
	d.run(append([]string{"pool", "init", d.pool, "--kind", kind, "--config", d.config,
		"--mount-parent", filepath.Join(dir, "pools")}, arguments...)...)
	return d
}

// run runs one command of rockpool to its end; it has to succeed.
func (d *driver) run(arguments ...string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, d.program, arguments...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("rockpool %s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
}

// start returns once Probe says ready.
func (d *driver) start() {
	d.t.Helper()
	log, err := os.OpenFile(d.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.process = exec.Command(d.program, "standalone", "--config", d.config, "--endpoint", "unix://"+d.socket,
		"--node-id", "sanity-node", "--kubelet-root", d.kubelet, "--state-dir", filepath.Join(d.dir, "state"))
	d.process.Stdout, d.process.Stderr = log, log
	// A process group of its own: what it leaves running can be seen.
	d.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := d.process.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.exited = make(chan error, 1)
	go func() { d.exited <- d.process.Wait() }()
	d.t.Cleanup(d.kill)
	d.conn, err = grpc.NewClient("unix://"+d.socket, grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { d.conn.Close() })
	d.awaitReady()
}

func (d *driver) awaitReady() {
	d.t.Helper()
	identity := csi.NewIdentityClient(d.conn)
	for end := time.Now().Add(readyWithin); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		answer, err := identity.Probe(ctx, &csi.ProbeRequest{})
		cancel()
		if err == nil && answer.GetReady().GetValue() {
			return
		}
		select {
		case died := <-d.exited:
			d.exited <- died
			d.t.Fatalf("the driver ended before it was ready: %v\n%s", died, d.logTail())
		default:
		}
		if time.Now().After(end) {
			d.t.Fatalf("the driver is not ready after %v (Probe: %v, %v)\n%s", readyWithin, answer, err, d.logTail())
		}
	}
}

// stop sends SIGTERM and expects exit status 0, no socket and no process left.
func (d *driver) stop() {
	d.t.Helper()
	d.conn.Close()
	group := d.process.Process.Pid
	if err := d.process.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatalf("the driver is gone: %v\n%s", err, d.logTail())
	}
	select {
	case err := <-d.exited:
		d.exited <- err
		if err != nil {
			d.t.Errorf("after SIGTERM the driver ended with %v, has to be status 0\n%s", err, d.logTail())
		}
	case <-time.After(stopWithin):
		d.t.Errorf("the driver does not end within %v of a SIGTERM\n%s", stopWithin, d.logTail())
		d.kill()
		return
	}
	if _, err := os.Lstat(d.socket); !errors.Is(err, os.ErrNotExist) {
		d.t.Errorf("the socket %s is left behind (%v)", d.socket, err)
	}
	if err := syscall.Kill(-group, 0); !errors.Is(err, syscall.ESRCH) {
		d.t.Errorf("processes of the driver run on after its end (%v)", err)
	}
}

// kill ends what a failed test left running.
func (d *driver) kill() {
	select {
	case err := <-d.exited:
		d.exited <- err
	default:
		_ = syscall.Kill(-d.process.Process.Pid, syscall.SIGKILL)
		d.exited <- <-d.exited
	}
}

// listed says which volumes and snapshots the driver still knows.
func (d *driver) listed() []string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	controller := csi.NewControllerClient(d.conn)
	var found []string
	volumes, err := controller.ListVolumes(ctx, &csi.ListVolumesRequest{})
	if err != nil {
		d.t.Errorf("ListVolumes: %v", err)
	}
	for _, entry := range volumes.GetEntries() {
		found = append(found, fmt.Sprintf("volume %s", entry.GetVolume().GetVolumeId()))
	}
	snapshots, err := controller.ListSnapshots(ctx, &csi.ListSnapshotsRequest{})
	if err != nil && status.Code(err) != codes.Unimplemented {
		d.t.Errorf("ListSnapshots: %v", err)
	}
	for _, entry := range snapshots.GetEntries() {
		found = append(found, fmt.Sprintf("snapshot %s", entry.GetSnapshot().GetSnapshotId()))
	}
	return found
}

// home is where the pool's files can be seen while it is mounted.
func (d *driver) home() string {
	for _, one := range mounts(d.t, d.dir) {
		if one.source == d.at || loops(d.t, d.dir, nil)[one.source] == d.at {
			return one.point
		}
	}
	return d.at
}

func (d *driver) log() string {
	return filepath.Join(d.dir, "driver.log")
}

func (d *driver) logTail() string {
	raw, err := os.ReadFile(d.log())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return "the end of its log:\n" + strings.Join(lines[max(0, len(lines)-40):], "\n")
}
