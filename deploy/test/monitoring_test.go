package deploytest

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

type rules struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Expr, For    string
			Labels, Annotations map[string]string
		}
	}
}

func readRules(t *testing.T) rules {
	t.Helper()
	read, err := os.ReadFile(chartDir + "/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var found rules
	if err := yaml.UnmarshalStrict(read, &found); err != nil {
		t.Fatal(err)
	}
	return found
}

// A name at three in the morning is of use only with what to do about it.
func TestEachAlertHasItsRunbookAndItsTest(t *testing.T) {
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	tried, err := os.ReadFile("alerts_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, group := range readRules(t).Groups {
		for _, rule := range group.Rules {
			named[rule.Alert] = true
			if want := "docs/monitoring.md#" + strings.ToLower(rule.Alert); rule.Annotations["runbook"] != want {
				t.Errorf("%s: the runbook is %q, want %q", rule.Alert, rule.Annotations["runbook"], want)
			}
			if !strings.Contains(string(page), "\n### "+rule.Alert+"\n") {
				t.Errorf("docs/monitoring.md has no section %s", rule.Alert)
			}
			for _, key := range []string{"summary", "description"} {
				if rule.Annotations[key] == "" {
					t.Errorf("%s has no %s", rule.Alert, key)
				}
			}
			if severity := rule.Labels["severity"]; severity != "warning" && severity != "critical" {
				t.Errorf("%s: the severity is %q", rule.Alert, severity)
			}
			fires := regexp.MustCompile(`alertname: ` + rule.Alert + `\n\s+exp_alerts:`)
			quiet := regexp.MustCompile(`alertname: ` + rule.Alert + `\}`)
			if !fires.Match(tried) || !quiet.Match(tried) {
				t.Errorf("alerts_test.yaml does not show both that %s fires and that it does not", rule.Alert)
			}
		}
	}
	for _, section := range regexp.MustCompile(`(?m)^### (Rockpool\w+)$`).FindAllStringSubmatch(string(page), -1) {
		if !named[section[1]] {
			t.Errorf("docs/monitoring.md has a section %s, and there is no such alert", section[1])
		}
	}
}

// What the page says there is, the alerts ask for and the dashboards show; the test on the cluster runs the queries.
func TestEachMetricIsDescribed(t *testing.T) {
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`rockpool_[a-z_]+[a-z]`)
	described := map[string]bool{}
	for _, found := range name.FindAllString(string(page), -1) {
		described[found] = true
	}
	check := func(where, text string) {
		for _, used := range name.FindAllString(text, -1) {
			plain := strings.TrimSuffix(used, "_bucket")
			if !described[used] && !described[plain] {
				t.Errorf("%s asks for %s, which docs/monitoring.md does not describe", where, used)
			}
		}
	}
	for _, group := range readRules(t).Groups {
		for _, rule := range group.Rules {
			check(rule.Alert, rule.Expr)
		}
	}
	for _, board := range []string{"fleet", "node"} {
		for _, query := range queries(t, board) {
			check(board, query)
		}
	}
}

// queries are those of all panels of a dashboard.
func queries(t *testing.T, board string) []string {
	t.Helper()
	text, err := os.ReadFile(chartDir + "/monitoring/" + board + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		UID, Title string
		Panels     []struct {
			ID          int
			Type, Title string
			Description string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if read.UID != "rockpool-"+board || read.Title == "" {
		t.Errorf("%s: the uid is %q, the title %q", board, read.UID, read.Title)
	}
	var all []string
	ids, places := map[int]bool{}, map[[2]int]string{}
	for _, panel := range read.Panels {
		if ids[panel.ID] {
			t.Errorf("%s: two panels have the id %d", board, panel.ID)
		}
		ids[panel.ID] = true
		for x := panel.GridPos.X; x < panel.GridPos.X+panel.GridPos.W; x++ {
			for y := panel.GridPos.Y; y < panel.GridPos.Y+panel.GridPos.H; y++ {
				if other, taken := places[[2]int{x, y}]; taken {
					t.Fatalf("%s: %q lies over %q", board, panel.Title, other)
				}
				places[[2]int{x, y}] = panel.Title
			}
		}
		if panel.Type == "row" {
			continue
		}
		if panel.Description == "" || len(panel.Targets) == 0 {
			t.Errorf("%s: %q has no description or asks for nothing", board, panel.Title)
		}
		for _, target := range panel.Targets {
			all = append(all, target.Expr)
		}
	}
	if len(all) < 10 {
		t.Errorf("%s asks for %d things only", board, len(all))
	}
	return all
}

func TestMonitoringIsMadeWhereItIsAskedFor(t *testing.T) {
	made := func(given map[string]any) map[string]unstructured.Unstructured {
		found := map[string]unstructured.Unstructured{}
		for _, one := range objects(t, render(t, given, bare)) {
			if one.GetKind() == "PrometheusRule" || strings.Contains(one.GetName(), "-dashboard-") {
				found[one.GetName()] = one.Unstructured
			}
		}
		return found
	}
	if found := made(map[string]any{}); len(found) != 0 {
		t.Errorf("nobody asked for %v", keys(found))
	}
	found := made(values(t, "metrics: {prometheusRule: {enabled: true}, dashboards: {enabled: true}}"))
	if got := strings.Join(keys(found), " "); got != "rockpool rockpool-dashboard-fleet rockpool-dashboard-node" {
		t.Fatalf("made were %s", got)
	}
	rule := found["rockpool"]
	groups, _, _ := unstructured.NestedSlice(rule.Object, "spec", "groups")
	if len(groups) != len(readRules(t).Groups) {
		t.Errorf("the rule has %d groups", len(groups))
	}
	// Helm must not take what Prometheus fills in for its own.
	if text, _ := yaml.Marshal(rule.Object); !strings.Contains(string(text), "{{ $labels.pool }}") {
		t.Errorf("the labels of an alert are gone:\n%s", text)
	}
	board := found["rockpool-dashboard-node"]
	kept, _, _ := unstructured.NestedString(board.Object, "data", "rockpool-node.json")
	if text, _ := os.ReadFile(chartDir + "/monitoring/node.json"); strings.TrimSpace(kept) != strings.TrimSpace(string(text)) {
		t.Error("the dashboard in the ConfigMap is another one")
	}
}
