package sanity

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	readyWithin = 30 * time.Second
	stopWithin  = 30 * time.Second
)

// process is a running rockpool that serves CSI on a socket.
type process struct {
	t                 *testing.T
	name, log, socket string
	command           *exec.Cmd
	exited            chan error
	conn              *grpc.ClientConn
}

// startProcess starts rockpool with these arguments, to serve on run/NAME.sock below dir and to log to NAME.log there.
func startProcess(t *testing.T, program, dir, name string, arguments ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, log: filepath.Join(dir, name+".log"), socket: filepath.Join(dir, "run", name+".sock")}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	words := append(append(inPort(name, program), arguments...), "--endpoint", "unix://"+p.socket)
	p.command = exec.Command(words[0], words[1:]...)
	p.command.Stdout, p.command.Stderr = log, log
	// A process group of its own: what it leaves running can be seen.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	p.exited = make(chan error, 1)
	go func() { p.exited <- p.command.Wait() }()
	t.Cleanup(p.kill)
	p.conn, err = grpc.NewClient("unix://"+p.socket, grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	return p
}

// awaitReady returns once Probe says ready.
func (p *process) awaitReady() {
	p.t.Helper()
	identity := csi.NewIdentityClient(p.conn)
	for end := time.Now().Add(readyWithin); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		answer, err := identity.Probe(ctx, &csi.ProbeRequest{})
		cancel()
		if err == nil && answer.GetReady().GetValue() {
			return
		}
		select {
		case died := <-p.exited:
			p.exited <- died
			p.t.Fatalf("%s ended before it was ready: %v\n%s", p.name, died, p.logTail())
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("%s is not ready after %v (Probe: %v, %v)\n%s", p.name, readyWithin, answer, err, p.logTail())
		}
	}
}

// stop sends SIGTERM and expects exit status 0, no socket and no process left.
func (p *process) stop() {
	p.t.Helper()
	p.conn.Close()
	group := p.command.Process.Pid
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("%s is gone: %v\n%s", p.name, err, p.logTail())
	}
	select {
	case err := <-p.exited:
		p.exited <- err
		if err != nil {
			p.t.Errorf("after SIGTERM %s ended with %v, has to be status 0\n%s", p.name, err, p.logTail())
		}
	case <-time.After(stopWithin):
		p.t.Errorf("%s does not end within %v of a SIGTERM\n%s", p.name, stopWithin, p.logTail())
		p.kill()
		return
	}
	if _, err := os.Lstat(p.socket); !errors.Is(err, os.ErrNotExist) {
		p.t.Errorf("the socket %s is left behind (%v)", p.socket, err)
	}
	if err := syscall.Kill(-group, 0); !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("processes of %s run on after its end (%v)", p.name, err)
	}
}

// kill ends what a failed test left running.
func (p *process) kill() {
	select {
	case err := <-p.exited:
		p.exited <- err
	default:
		_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL)
		p.exited <- <-p.exited
	}
}

func (p *process) logTail() string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return "the end of the log of " + p.name + ":\n" + strings.Join(lines[max(0, len(lines)-40):], "\n")
}
