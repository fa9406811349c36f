package sanity

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLeaksAreSeen leaves a filesystem in a file, a bind mount from it, and a loop device over a file inside it, as a
// broken driver would: each has to be reported, and cleaned away with the directory.
func TestLeaksAreSeen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	var dir string
	t.Run("leak", func(t *testing.T) {
		dir = workDir(t)
		pool, volume, target := filepath.Join(dir, "pool"), filepath.Join(dir, "at", "volume"), filepath.Join(dir, "target")
		for _, command := range [][]string{
			{"mkdir", filepath.Dir(volume), target},
			{"truncate", "--size=32M", pool},
			{"mkfs.ext4", "-q", pool},
			{"mount", "-o", "loop", pool, filepath.Dir(volume)},
			{"mount", "--bind", filepath.Dir(volume), target},
			{"truncate", "--size=1M", volume},
			{"losetup", "--find", volume},
		} {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", command, err, out)
			}
		}
		lines := strings.Join(held(t, dir), "\n")
		for _, want := range []string{"mount " + filepath.Dir(volume), "mount " + target, "over " + pool, "over " + volume} {
			if !strings.Contains(lines, want) {
				t.Errorf("%q was left and not seen in:\n%s", want, lines)
			}
		}
	})
	if lines := held(t, dir); len(lines) > 0 {
		t.Errorf("the clean-up left %q", lines)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the clean-up left %s (%v)", dir, err)
	}
}
