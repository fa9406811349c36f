// Package deploytest holds the tests of the chart: what it makes of values, without a cluster.
//
// Helm is used as a library, so nothing has to be installed; `go test -update` writes what is compared.
package deploytest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

const chartDir = "../chart/rockpool"

var update = flag.Bool("update", false, "write what the chart makes now, instead of comparing it")

// A cluster is what a chart can see of one.
type cluster struct {
	kube string   // like v1.36.0
	apis []string // beside Kubernetes' own
	held engine.ClientProvider
}

var (
	snapshotAPI = []string{"snapshot.storage.k8s.io/v1", "snapshot.storage.k8s.io/v1/VolumeSnapshotClass"}
	groupAPI    = []string{"groupsnapshot.storage.k8s.io/v1", "groupsnapshot.storage.k8s.io/v1/VolumeGroupSnapshotClass"}
	certAPI     = []string{"cert-manager.io/v1"}
	bare        = cluster{kube: "v1.36.0"}
	everything  = cluster{kube: "v1.37.0", apis: concat(snapshotAPI, groupAPI, certAPI)}
)

func concat(lists ...[]string) []string {
	var all []string
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// loadChart reads the chart anew: a render changes what it is given.
func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	chart, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return chart
}

// values reads values as a user writes them.
func values(t *testing.T, text string) map[string]any {
	t.Helper()
	read := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &read); err != nil {
		t.Fatal(err)
	}
	return read
}

// attempt renders the chart as `helm install rockpool --namespace rockpool-system` would, to files by their names.
func attempt(t *testing.T, given map[string]any, in cluster) (map[string]string, error) {
	t.Helper()
	kube, err := chartutil.ParseKubeVersion(in.kube)
	if err != nil {
		t.Fatal(err)
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *kube
	capabilities.APIVersions = append(append(chartutil.VersionSet{}, capabilities.APIVersions...), in.apis...)
	release := chartutil.ReleaseOptions{Name: "rockpool", Namespace: "rockpool-system", Revision: 1, IsInstall: true}
	loaded := loadChart(t)
	all, err := chartutil.ToRenderValues(loaded, given, release, capabilities)
	if err != nil {
		return nil, err
	}
	if in.held != nil {
		return engine.RenderWithClientProvider(loaded, all, in.held)
	}
	return engine.Render(loaded, all)
}

// render is attempt where nothing may go wrong.
func render(t *testing.T, given map[string]any, in cluster) map[string]string {
	t.Helper()
	files, err := attempt(t, given, in)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// text is what `helm template` prints: all objects in the order in which they are installed.
func text(t *testing.T, files map[string]string) string {
	t.Helper()
	objects := map[string]string{}
	for name, content := range files {
		if !strings.HasSuffix(name, "NOTES.txt") && strings.TrimSpace(content) != "" {
			objects[name] = content
		}
	}
	_, manifests, err := releaseutil.SortManifests(objects, nil, releaseutil.InstallOrder)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, manifest := range manifests {
		fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", manifest.Name, strings.TrimSpace(manifest.Content))
	}
	return out.String()
}

// An object is one document of a render.
type object struct {
	unstructured.Unstructured
	source string
}

// objects are all documents of a render, in the order of install.
func objects(t *testing.T, files map[string]string) []object {
	t.Helper()
	var all []object
	for _, document := range regexp.MustCompile(`(?m)^---$`).Split(text(t, files), -1) {
		if strings.TrimSpace(document) == "" {
			continue
		}
		read := object{source: document}
		if err := yaml.UnmarshalStrict([]byte(document), &read.Object); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		all = append(all, read)
	}
	return all
}

// kind are the objects of a kind, as type T.
func kind[T any](t *testing.T, all []object, kind string) []T {
	t.Helper()
	var found []T
	for _, one := range all {
		if one.GetKind() != kind {
			continue
		}
		var typed T
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(one.Object, &typed); err != nil {
			t.Fatalf("%s %s: %v", kind, one.GetName(), err)
		}
		found = append(found, typed)
	}
	return found
}

// named is the one object of a kind with this name.
func named[T any, P interface {
	*T
	metav1.Object
}](t *testing.T, all []object, of, name string) P {
	t.Helper()
	for _, one := range kind[T](t, all, of) {
		if P(&one).GetName() == name {
			return &one
		}
	}
	t.Fatalf("there is no %s %s", of, name)
	return nil
}

// compare compares with a file, or writes it.
func compare(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) == got {
		return
	}
	before, after := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	for i := range after {
		if i >= len(before) || before[i] != after[i] {
			was := "the end of the file"
			if i < len(before) {
				was = before[i]
			}
			t.Fatalf("%s: the chart makes something else from line %d on:\n  is  %s\n  now %s\nlook at the change; `make chart` writes it", path, i+1, was, after[i])
		}
	}
	t.Fatalf("%s has more than the chart makes; `make chart` writes it", path)
}

// hide takes out what is random.
func hide(rendered string) string {
	rendered = regexp.MustCompile(`(tls\.(?:crt|key)): \S+`).ReplaceAllString(rendered, "$1: MADE-BY-THE-CHART")
	return regexp.MustCompile(`ca\.crt: ".*"`).ReplaceAllString(rendered, "ca.crt: MADE-BY-THE-CHART")
}

func keys[V any](of map[string]V) []string {
	var all []string
	for key := range of {
		all = append(all, key)
	}
	sort.Strings(all)
	return all
}

func word(value any) string { return fmt.Sprint(value) }
