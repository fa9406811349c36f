package sanity

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"
)

// specsInSuite is what csi-test v5.6.0 holds, the one that it keeps pending included.
const specsInSuite = 103

// spec is one line of the suite's report.
type spec struct {
	name, state, reason string
}

// readReport reads what the suite wrote with --ginkgo.json-report.
func readReport(path string) ([]spec, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the suite wrote no report: %w", err)
	}
	var reports []types.Report
	if err := json.Unmarshal(raw, &reports); err != nil {
		return nil, fmt.Errorf("failed to read %s: %w", path, err)
	}
	var specs []spec
	for _, report := range reports {
		for _, line := range report.SpecReports {
			if line.LeafNodeType == types.NodeTypeIt {
				specs = append(specs, spec{line.FullText(), line.State.String(), line.FailureMessage()})
			}
		}
	}
	return specs, nil
}

// readSkips reads lists of specs that may skip, from skips/: full names, one a line.
func readSkips(lists ...string) (map[string]bool, error) {
	names := map[string]bool{}
	for _, list := range lists {
		raw, err := os.ReadFile(filepath.Join("skips", list+".txt"))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimSpace(line)
			if line != "" && !strings.HasPrefix(line, "#") {
				names[line] = true
			}
		}
	}
	return names, nil
}

// judge says, one line each, what is wrong with a run: a spec that failed, one that skipped and is not on the list, one
// that skipped because of something other than a missing capability, one on the list that ran, and specs that are gone.
func judge(specs []spec, maySkip, pending map[string]bool) []string {
	var wrong []string
	seen := map[string]bool{}
	for _, spec := range specs {
		seen[spec.name] = true
		wrong = append(wrong, judgeOne(spec, maySkip[spec.name], pending[spec.name])...)
	}
	for _, name := range slices.Sorted(maps.Keys(maySkip)) {
		if !seen[name] {
			wrong = append(wrong, fmt.Sprintf("%q may skip, but the suite has no such spec", name))
		}
	}
	if len(seen) != specsInSuite {
		wrong = append(wrong, fmt.Sprintf("the suite reported %d specs, there have to be %d", len(seen), specsInSuite))
	}
	return wrong
}

func judgeOne(spec spec, maySkip, pending bool) []string {
	switch {
	case spec.state == "passed" && maySkip:
		return []string{fmt.Sprintf("%q ran: take it off the list of those that may skip", spec.name)}
	case spec.state == "passed":
		return nil
	case spec.state == "pending" && pending:
		return nil
	case spec.state == "skipped" && maySkip && strings.HasSuffix(spec.reason, "not supported"):
		return nil
	case spec.state == "skipped" && maySkip:
		return []string{fmt.Sprintf("%q skipped for another reason than a missing capability: %s", spec.name, spec.reason)}
	case spec.state == "skipped":
		return []string{fmt.Sprintf("%q skipped and may not: %s", spec.name, spec.reason)}
	default:
		return []string{fmt.Sprintf("%q %s: %s", spec.name, spec.state, spec.reason)}
	}
}

func TestJudge(t *testing.T) {
	good := func() []spec {
		specs := make([]spec, specsInSuite)
		for i := range specs {
			specs[i] = spec{name: fmt.Sprintf("spec %d", i), state: "passed"}
		}
		specs[0] = spec{"spec 0", "skipped", "ModifyVolume not supported"}
		specs[1] = spec{"spec 1", "pending", ""}
		return specs
	}
	maySkip, pending := map[string]bool{"spec 0": true}, map[string]bool{"spec 1": true}
	if wrong := judge(good(), maySkip, pending); len(wrong) != 0 {
		t.Errorf("a good run is called wrong: %q", wrong)
	}
	bad := map[string]func([]spec) []spec{
		"spec 2":   func(s []spec) []spec { s[2].state = "failed"; return s },
		"spec 3":   func(s []spec) []spec { s[3].state = "panicked"; return s },
		"spec 4":   func(s []spec) []spec { s[4].state = "skipped"; return s },
		"spec 5":   func(s []spec) []spec { s[5].state = "pending"; return s },
		"ran":      func(s []spec) []spec { s[0].state = "passed"; return s },
		"another":  func(s []spec) []spec { s[0].reason = "No MaxVolumesPerNode"; return s },
		"no such":  func(s []spec) []spec { s[0].name, s[0].state = "renamed", "passed"; return s },
		"reported": func(s []spec) []spec { return s[:specsInSuite-1] },
	}
	for want, spoil := range bad {
		if wrong := judge(spoil(good()), maySkip, pending); len(wrong) != 1 || !strings.Contains(wrong[0], want) {
			t.Errorf("wanted one complaint about %q, got %q", want, wrong)
		}
	}
}

// TestSkipLists keeps the lists as long as the capabilities that they stand for.
func TestSkipLists(t *testing.T) {
	for list, want := range map[string]int{"attach": 10, "modify": 8, "snapshots": 29, "upstream": 1} {
		names, err := readSkips(list)
		if err != nil {
			t.Fatal(err)
		}
		if len(names) != want {
			t.Errorf("skips/%s.txt names %d specs, the capability gates %d", list, len(names), want)
		}
	}
}
