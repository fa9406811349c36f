package sanity

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	// The suite keeps five volumes and five snapshots at once; XFS needs 300 MiB each.
	volumeSize = 512 << 20
	grownSize  = 1 << 30
	poolSize   = "8GiB"
	// No run takes a quarter of this.
	suiteWithin = 15 * time.Minute
	// The file of a directory pool that says which project id comes next; it is there from the first volume on.
	counter = "projects"
)

// configuration is one column of the matrix. skips names the lists in skips/ of the specs that may skip; linked: a node and two
// controllers instead of one process.
type configuration struct {
	name, kind, access string
	parameters         map[string]string
	skips              []string
	ground             ground
	linked             bool
}

// fsType is in the class's parameters because the suite sends no fs_type in its capabilities.
const fsType = "csi.storage.k8s.io/fstype"

var configurations = []configuration{
	{"image-ext4", "image", "mount", map[string]string{fsType: "ext4"}, []string{"attach", "modify"}, inFile, false},
	{"image-xfs", "image", "mount", map[string]string{fsType: "xfs"}, []string{"attach", "modify"}, inFile, false},
	{"image-block", "image", "block", nil, []string{"attach", "modify"}, inFile, false},
	{"directory", "directory", "mount", nil, []string{"attach", "modify", "snapshots"}, inDirectory, false},
	{"directory-quota", "directory", "mount", nil, []string{"attach", "modify", "snapshots"}, onDisk, false},
	{"linked-ext4", "image", "mount", map[string]string{fsType: "ext4"}, []string{"attach", "modify"}, inFile, true},
	{"linked-block", "image", "block", nil, []string{"attach", "modify"}, inFile, true},
	{"linked-directory", "directory", "mount", nil, []string{"attach", "modify", "snapshots"}, inDirectory, true},
}

// TestSanity runs the upstream suite over every kind of pool, with real disks and mounts, and checks that nothing is
// left behind: not in the pool, not on the host. Where SANITY_DISK names an empty disk, as in the guest of make
// test-guest, only what needs one runs. There is no Go there: SANITY_SUITE names the suite's program.
func TestSanity(t *testing.T) {
	program := os.Getenv("ROCKPOOL_BIN")
	if program == "" && testing.Short() {
		t.Skip("-short: no driver to test")
	}
	if program == "" {
		t.Fatal("ROCKPOOL_BIN is not set: it names the rockpool program to test (go test -short leaves this test out)")
	}
	if os.Geteuid() != 0 {
		t.Fatal("mounts and loop devices need root")
	}
	suite := os.Getenv("SANITY_SUITE")
	if suite == "" {
		suite = filepath.Join(t.TempDir(), "csi-sanity")
		build := exec.Command("go", "build", "-o", suite, "./suite")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("failed to build csi-sanity: %v\n%s", err, out)
		}
	}
	for _, one := range configurations {
		if (one.ground == onDisk) == (os.Getenv("SANITY_DISK") != "") {
			t.Run(one.name, func(t *testing.T) { one.run(t, program, suite) })
		}
	}
}

func (c configuration) run(t *testing.T, program, suite string) {
	d := newDriver(t, program, c.kind, c.ground, c.linked)
	d.start()
	heldBefore, filesBefore := held(t, d.dir), tree(t, d.home(), counter)
	secret := c.runSuite(d, suite)
	for _, object := range d.listed() {
		t.Errorf("the suite deleted everything, but the driver lists %s", object)
	}
	d.stop()
	for _, line := range added(heldBefore, held(t, d.dir)) {
		t.Errorf("left on the host: %s", line)
	}
	for _, path := range added(filesBefore, tree(t, d.home(), counter)) {
		t.Errorf("left in the pool: %s", path)
	}
	if c.ground != inDirectory {
		d.run("pool", "unmount", d.pool, "--config", d.config)
		for _, line := range held(t, d.dir) {
			t.Errorf("left after pool unmount: %s", line)
		}
	}
	for _, path := range tree(t, d.dir, "pool", "pools", "rockpool.toml", "run", "kubelet", "state", "suite", "keys",
		"csi.log", "controller-1.log", "controller-2.log") {
		t.Errorf("made beside the pool: %s", path)
	}
	for _, path := range append(tree(t, d.kubelet), tree(t, filepath.Join(d.dir, "run"))...) {
		t.Errorf("left for kubelet or beside the socket: %s", path)
	}
	for _, path := range tree(t, filepath.Join(d.dir, "state", "mounts")) {
		t.Errorf("a note about a mount that is gone: %s", path)
	}
	for _, path := range d.logs() {
		if log, err := os.ReadFile(path); err != nil || strings.Contains(string(log), secret) {
			t.Errorf("the log %s holds a secret, or cannot be read (%v)", path, err)
		}
	}
	if t.Failed() {
		t.Log(d.logTail())
	}
}

// runSuite runs csi-sanity, prints what it skipped and why, and returns the secret that it sent with every call.
func (c configuration) runSuite(d *driver, suite string) string {
	d.t.Helper()
	dir := filepath.Join(d.dir, "suite")
	if err := os.Mkdir(dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	secret := "hunter2-" + d.pool
	report := filepath.Join(dir, "report.json")
	ctx, cancel := context.WithTimeout(context.Background(), suiteWithin)
	defer cancel()
	command := exec.CommandContext(ctx, suite,
		"--csi.endpoint=unix://"+d.node.socket,
		"--csi.controllerendpoint=unix://"+d.controller().socket,
		"--csi.mountdir="+filepath.Join(d.kubelet, "mount"),
		"--csi.stagingdir="+filepath.Join(d.kubelet, "staging"),
		"--csi.testvolumeaccesstype="+c.access,
		fmt.Sprintf("--csi.testvolumesize=%d", volumeSize),
		fmt.Sprintf("--csi.testvolumeexpandsize=%d", grownSize),
		"--csi.testvolumeparameters="+write(d.t, dir, "parameters.yaml", c.parameters),
		"--csi.secrets="+write(d.t, dir, "secrets.yaml", nestedSecrets(secret)),
		"--csi.testnodevolumeattachlimit",
		"--ginkgo.no-color", "--ginkgo.json-report="+report)
	// Straight through: whoever counts finds ginkgo's own last line.
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	failure := command.Run()

	specs, err := readReport(report)
	if err != nil {
		d.t.Fatalf("csi-sanity: %v, %v\n%s", failure, err, d.logTail())
	}
	passed := 0
	for _, spec := range specs {
		if spec.state == "passed" {
			passed++
		} else {
			fmt.Printf("sanity %s: %s: %s: %s\n", c.name, spec.state, spec.name, spec.reason)
		}
	}
	fmt.Printf("sanity %s: %d of %d specs passed\n", c.name, passed, len(specs))
	wrong := judge(specs, c.list(d.t, c.skips...), c.list(d.t, "upstream"))
	for _, line := range wrong {
		d.t.Error(line)
	}
	if failure != nil && len(wrong) == 0 {
		d.t.Errorf("csi-sanity ended with %v though every spec is accounted for", failure)
	}
	return secret
}

func (c configuration) list(t *testing.T, lists ...string) map[string]bool {
	t.Helper()
	names, err := readSkips(lists...)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// nestedSecrets gives every call of the suite the same secret.
func nestedSecrets(secret string) map[string]string {
	file := map[string]string{}
	for _, call := range []string{
		"CreateVolume", "DeleteVolume", "ControllerPublishVolume", "ControllerUnpublishVolume",
		"ControllerValidateVolumeCapabilities", "NodeStageVolume", "NodePublishVolume", "CreateSnapshot", "DeleteSnapshot",
		"ControllerExpandVolume", "ControllerModifyVolume", "ListSnapshots", "GetSnapshot",
	} {
		file[call+"Secret"] = "{password: " + secret + "}"
	}
	return file
}

// write writes a file of YAML; without entries it is an empty map.
func write(t *testing.T, dir, name string, entries map[string]string) string {
	t.Helper()
	lines := []string{"{}"}
	if len(entries) > 0 {
		lines = nil
	}
	for key, value := range entries {
		lines = append(lines, key+": "+value)
	}
	slices.Sort(lines)
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
