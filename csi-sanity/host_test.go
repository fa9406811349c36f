package sanity

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// mount is one line of the mount table.
type mount struct{ point, kind, source string }

// mounts are those that belong to dir: below it, of a filesystem in a file below it, or below such a one.
func mounts(t *testing.T, dir string) []mount {
	t.Helper()
	var all []mount
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		all = append(all, mount{unescape(left[4]), right[0], unescape(right[1])})
	}
	devices := loops(t, dir, nil)
	var own []mount
	for _, one := range all {
		if _, ours := devices[one.source]; ours || below(one.point, dir) {
			own = append(own, one)
		}
	}
	for _, one := range all {
		if !slices.Contains(own, one) && slices.ContainsFunc(own, func(o mount) bool { return below(one.point, o.point) }) {
			own = append(own, one)
		}
	}
	return own
}

// unescape undoes what the kernel does to blanks in the mount table.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// loops are the loop devices with a file below dir or below one of the mounts, and that file.
func loops(t *testing.T, dir string, over []mount) map[string]string {
	t.Helper()
	found := map[string]string{}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // It was freed while we looked.
		}
		backing := strings.TrimSuffix(strings.TrimSpace(string(raw)), " (deleted)")
		device := "/dev/" + strings.Split(file, "/")[3]
		if below(backing, dir) || slices.ContainsFunc(over, func(m mount) bool { return below(backing, m.point) }) {
			found[device] = backing
		}
	}
	return found
}

// held says what mounts and loop devices belong to dir, one a line, sorted.
func held(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	own := mounts(t, dir)
	for _, one := range own {
		lines = append(lines, fmt.Sprintf("mount %s (%s of %s)", one.point, one.kind, one.source))
	}
	for device, backing := range loops(t, dir, own) {
		lines = append(lines, fmt.Sprintf("loop %s over %s", device, backing))
	}
	slices.Sort(lines)
	return lines
}

// tree lists every path below dir, on its filesystem only, without the caller's exceptions.
func tree(t *testing.T, dir string, except ...string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == dir {
			return nil
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if slices.Contains(except, name) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		paths = append(paths, name)
		return nil
	})
	if err != nil {
		t.Errorf("failed to list %s: %v", dir, err)
	}
	return paths
}

// added are the lines of after that are not in before.
func added(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(after), func(line string) bool { return slices.Contains(before, line) })
}

// workDir is a directory that is emptied at the end whatever a broken driver left in it: mounts first, so that nothing
// is deleted through one.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rps-") // Short: a socket's path fits into 108 bytes.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		own := mounts(t, dir)
		devices := loops(t, dir, own)
		slices.SortFunc(own, func(a, b mount) int { return len(b.point) - len(a.point) })
		for _, one := range own {
			if err := syscall.Unmount(one.point, syscall.MNT_DETACH); err != nil {
				t.Errorf("failed to unmount %s: %v", one.point, err)
			}
		}
		for device := range devices {
			_ = exec.Command("losetup", "--detach", device).Run() // It may be gone with its last mount.
		}
		if left := mounts(t, dir); len(left) > 0 {
			t.Errorf("%s stays, there are mounts in it: %v", dir, left)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
