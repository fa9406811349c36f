package deploytest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
)

// binary is the program under test.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ROCKPOOL_BIN")
	if path == "" {
		t.Fatal("ROCKPOOL_BIN is not set: `make chart-test` builds the program and sets it")
	}
	return path
}

// containers are those of a name in all renders, by render and workload.
func containers(t *testing.T, name string) map[string]core.Container {
	t.Helper()
	found := map[string]core.Container{}
	for set, all := range renders(t) {
		for workload, pod := range templates(t, all) {
			for _, container := range pod.Spec.Containers {
				if container.Name == name {
					found[set+" "+workload] = container
				}
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no container is named %s", name)
	}
	return found
}

func flagOf(argument string) string {
	name, _, _ := strings.Cut(argument, "=")
	return name
}

func TestTheProgramTakesEveryFlagThatItIsGiven(t *testing.T) {
	known := map[string][]string{}
	for _, mode := range []string{"node", "controller"} {
		help, err := exec.Command(binary(t), mode, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		known[mode] = strings.Fields(string(help))
	}
	for where, container := range containers(t, "rockpool") {
		mode := container.Args[0]
		for _, argument := range container.Args[1:] {
			flag := flagOf(argument)
			if !slices.Contains(known[mode], flag) {
				t.Errorf("%s: %s has no %s", where, mode, flag)
			}
		}
		parsed(t, where, container.Args)
	}
}

// parsed runs the program with files that do not exist: it may complain of those (1), never of its flags (2).
func parsed(t *testing.T, where string, given []string) {
	t.Helper()
	nowhere := t.TempDir()
	var args []string
	for _, argument := range given {
		argument = regexp.MustCompile(`\$\([A-Z_]+\)`).ReplaceAllString(argument, "10.0.0.1")
		for _, path := range []string{"/etc/", "/run/", "/var/"} {
			argument = strings.Replace(argument, "="+path, "="+nowhere+path, 1)
			argument = strings.Replace(argument, "=unix://"+path, "=unix://"+nowhere+path, 1)
		}
		args = append(args, argument)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, binary(t), args...)
	command.Env = []string{"POD_NAMESPACE=rockpool-system"}
	said, err := command.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%s: %v: %s", where, err, said)
	}
}

// The sidecars' flags are read in their sources, at the versions of the chart's images.
func TestSidecarsTakeEveryFlagThatTheyAreGiven(t *testing.T) {
	library := flagsIn(t, "github.com/kubernetes-csi/csi-lib-utils", "v0.24.0", "standardflags")
	for name, at := range map[string]struct{ module, program string }{
		"provisioner": {"github.com/kubernetes-csi/external-provisioner/v6", "cmd/csi-provisioner"},
		"resizer":     {"github.com/kubernetes-csi/external-resizer/v2", "cmd/csi-resizer"},
		"snapshotter": {"github.com/kubernetes-csi/external-snapshotter/v8", "cmd/csi-snapshotter"},
	} {
		var version string
		seen := map[string]bool{}
		for where, container := range containers(t, name) {
			if strings.HasPrefix(where, "default") || name == "snapshotter" {
				_, version, _ = strings.Cut(container.Image, ":")
			}
			for _, argument := range container.Args {
				seen[strings.TrimLeft(flagOf(argument), "-")] = true
			}
		}
		source := sources(t, at.module, version)
		flags := append(append(flagsUnder(t, filepath.Join(source, at.program)), library...), "v")
		for flag := range seen {
			if !slices.Contains(flags, flag) {
				t.Errorf("%s %s has no flag --%s", name, version, flag)
			}
		}
		features, err := os.ReadFile(filepath.Join(source, "pkg/features/features.go"))
		if err != nil {
			t.Fatal(err)
		}
		for where, container := range containers(t, name) {
			for _, argument := range container.Args {
				if gates, is := strings.CutPrefix(argument, "--feature-gates="); is {
					for gate := range strings.SplitSeq(gates, ",") {
						if gate, _, _ = strings.Cut(gate, "="); !strings.Contains(string(features), `"`+gate+`"`) {
							t.Errorf("%s: %s %s has no gate %s", where, name, version, gate)
						}
					}
				}
			}
		}
	}
}

// sources is where a module's files are.
func sources(t *testing.T, module, version string) string {
	t.Helper()
	command := exec.Command("go", "mod", "download", "-json", module+"@"+version)
	command.Dir = t.TempDir()
	said, err := command.Output()
	var module_ struct{ Dir, Error string }
	if json.Unmarshal(said, &module_) != nil || err != nil || module_.Dir == "" {
		t.Fatalf("%s@%s: %v %s", module, version, err, said)
	}
	return module_.Dir
}

func flagsIn(t *testing.T, module, version, dir string) []string {
	t.Helper()
	return flagsUnder(t, filepath.Join(sources(t, module, version), dir))
}

// flagsUnder are the flags that Go files define with package flag.
func flagsUnder(t *testing.T, dir string) []string {
	t.Helper()
	files, _ := filepath.Glob(dir + "/*.go")
	var all []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`(?:Bool|String|Int|Int64|Uint|Duration|Float64|Float32|Func|)(?:Var)?\([^"\n]*"([a-z][a-z-]+)"`).FindAllStringSubmatch(string(text), -1) {
			all = append(all, found[1])
		}
	}
	if len(all) < 5 {
		t.Fatalf("%s defines only %v", dir, all)
	}
	return all
}
