package sanity

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const nodeID = "sanity-node"

// ground is where a pool lies.
type ground int

const (
	inFile ground = iota
	inDirectory
	onDisk
)

// driver is what serves one pool, all of it below one directory: `rockpool standalone`; or `rockpool node` and two controllers.
type driver struct {
	t                               *testing.T
	program, dir                    string
	pool, kind, config, kubelet, at string // at: the file, directory or disk of the pool
	linked                          bool
	node                            *process
	controllers                     []*process // none: the node serves everything
}

// newDriver prepares the pool; nothing runs yet.
func newDriver(t *testing.T, program, kind string, on ground, linked bool) *driver {
	t.Helper()
	dir := workDir(t)
	d := &driver{
		t: t, program: program, dir: dir, pool: "sanity-" + filepath.Base(dir)[len("rps-"):],
		config: filepath.Join(dir, "rockpool.toml"), kubelet: filepath.Join(dir, "kubelet"), at: filepath.Join(dir, "pool"),
		kind: kind, linked: linked,
	}
	for _, made := range []string{filepath.Join(dir, "run"), d.kubelet} {
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
	arguments := []string{"--config", d.config, "--node-id", nodeID, "--kubelet-root", d.kubelet,
		"--state-dir", filepath.Join(d.dir, "state")}
	if !d.linked {
		d.node = startProcess(d.t, d.program, d.dir, "csi", append([]string{"standalone"}, arguments...)...)
		d.node.awaitReady()
		return
	}
	keys := filepath.Join(d.dir, "keys")
	if err := os.Mkdir(keys, 0o700); err != nil {
		d.t.Fatal(err)
	}
	authority := newAuthority(d.t, keys)
	for _, name := range []string{"controller-1", "controller-2"} {
		listen := listenAt(d.t, name)
		flags := append([]string{"controller", "--listen", listen, "--pool-kinds", d.kind}, authority.issue(name, "")...)
		d.controllers = append(d.controllers, startProcess(d.t, d.program, d.dir, name, flags...))
		arguments = append(arguments, "--controller", listen)
	}
	arguments = append(arguments, "--pool-kinds", d.kind)
	arguments = append(arguments, authority.issue("node", nodeID)...)
	d.node = startProcess(d.t, d.program, d.dir, "csi", append([]string{"node"}, arguments...)...)
	d.node.awaitReady()
	for _, controller := range d.controllers {
		controller.awaitReady()
	}
}

// controller is the process that is called for what concerns no node: one of the two, by the pool's name.
func (d *driver) controller() *process {
	if !d.linked {
		return d.node
	}
	return d.controllers[len(d.pool)%len(d.controllers)]
}

// stop ends all processes in order; each has to leave nothing.
func (d *driver) stop() {
	d.t.Helper()
	for _, one := range append(d.controllers, d.node) {
		one.stop()
	}
}

// freePort is an address of this host that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// listed says which volumes and snapshots the driver still knows.
func (d *driver) listed() []string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	controller := csi.NewControllerClient(d.controller().conn)
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

// logs are the paths of what the processes said.
func (d *driver) logs() []string {
	paths := []string{d.node.log}
	for _, one := range d.controllers {
		paths = append(paths, one.log)
	}
	return paths
}

func (d *driver) logTail() string {
	tails := d.node.logTail()
	for _, one := range d.controllers {
		tails += "\n" + one.logTail()
	}
	return tails
}
