package deploytest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

// Value sets whose renders are kept: what a change of the chart changes is in the diff.
var golden = []struct {
	name string
	in   cluster
}{
	{"default", bare},
	{"full", everything},
	{"existing", cluster{kube: "v1.36.0", apis: snapshotAPI}},
}

func given(t *testing.T, path string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return values(t, string(text))
}

func TestTheChartIsWithoutLint(t *testing.T) {
	for _, set := range golden {
		found := lint.All(chartDir, given(t, "golden/"+set.name+".values.yaml"), "rockpool-system", true)
		for _, message := range found.Messages {
			// An icon is recommended.
			if message.Severity > support.InfoSev && set.name != "full" {
				t.Errorf("%s: %v", set.name, message)
			}
			// Lint knows no cluster with cert-manager.
			if set.name == "full" && message.Severity > support.InfoSev && !strings.Contains(message.Error(), "cert-manager") {
				t.Errorf("%s: %v", set.name, message)
			}
		}
	}
}

func TestRendersAreAsKept(t *testing.T) {
	for _, set := range golden {
		t.Run(set.name, func(t *testing.T) {
			rendered := text(t, render(t, given(t, "golden/"+set.name+".values.yaml"), set.in))
			compare(t, filepath.Join("golden", set.name+".yaml"), hide(rendered))
		})
	}
}

func TestThePlainYamlIsWhatTheChartMakes(t *testing.T) {
	const head = "# Rockpool without Helm, made of the chart with deploy/rockpool.values.yaml by `make chart`: docs/install.md, Without Helm.\n"
	in := cluster{kube: "v1.36.0", apis: concat(snapshotAPI, groupAPI)}
	compare(t, "../rockpool.yaml", head+text(t, render(t, given(t, "../rockpool.values.yaml"), in)))
}

// With the gate on and without the CRDs a snapshotter waits for ever, and no snapshot becomes ready: the plain YAML knows no cluster.
func TestThePlainYamlNeedsNoGroupSnapshots(t *testing.T) {
	read, err := os.ReadFile("../rockpool.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plain := string(read)
	if !strings.Contains(plain, "CSIVolumeGroupSnapshot=false") || strings.Contains(plain, "CSIVolumeGroupSnapshot=true") {
		t.Error("the gate of group snapshots is on")
	}
	if strings.Contains(plain, "groupsnapshot.storage.k8s.io") {
		t.Error("there is something of groupsnapshot.storage.k8s.io")
	}
	if !strings.Contains(plain, "kind: VolumeSnapshotClass") {
		t.Error("there is no VolumeSnapshotClass")
	}
	// docs/install.md says how to have them.
	with := given(t, "../rockpool.values.yaml")
	with["groupSnapshots"] = "enabled"
	named := cluster{kube: "v1.36.0", apis: []string{"snapshot.storage.k8s.io/v1/VolumeSnapshotClass", "groupsnapshot.storage.k8s.io/v1/VolumeGroupSnapshotClass"}}
	if !strings.Contains(text(t, render(t, with, named)), "CSIVolumeGroupSnapshot=true") {
		t.Error("group snapshots cannot be turned on")
	}
}

func TestEveryValueIsExplained(t *testing.T) {
	text, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	count := explained(t, document.Content[0], "", false)
	if count < 80 {
		t.Errorf("only %d values were looked at", count)
	}
}

// explained counts the values below a map; each has a comment, or is a small part of one that has.
func explained(t *testing.T, of *yaml.Node, path string, above bool) int {
	count := 0
	for i := 0; i+1 < len(of.Content); i += 2 {
		key, value := of.Content[i], of.Content[i+1]
		at := path + key.Value
		comment := key.HeadComment + key.LineComment + value.LineComment + value.HeadComment
		if value.Kind == yaml.MappingNode && len(value.Content) > 0 && value.Style != yaml.FlowStyle {
			// What a comment above a map says holds for the plain Kubernetes objects in it.
			plain := key.Value == "resources" || key.Value == "updateStrategy"
			count += explained(t, value, at+".", above || plain && comment != "")
			continue
		}
		if value.Kind == yaml.SequenceNode && len(value.Content) > 0 && value.Content[0].Kind == yaml.MappingNode && value.Style != yaml.FlowStyle {
			// The first element explains its fields.
			count += explained(t, value.Content[0], at+"[0].", above)
			continue
		}
		count++
		if len(comment) < 8 && !above {
			t.Errorf("values.yaml: %s has no comment", at)
		}
	}
	return count
}

func TestWrongValuesAreRefusedByName(t *testing.T) {
	for _, wrong := range []struct{ values, says string }{
		{"controler: {replicas: 3}", "controler"},
		{"controller: {replica: 3}", "replica"},
		{"controller: {replicas: 0}", "replicas"},
		{"driverName: CSI_rockpool", "driverName"},
		{"driverName: csi.rockpool.2", "driverName"},
		{"poolKinds: []", "poolKinds"},
		{"poolKinds: [lvm]", "poolKinds"},
		{"pools: {config: ''}", "config"},
		{"pools: {hostPaths: [mnt/disks]}", "hostPaths"},
		{"nodeGroups: []", "nodeGroups"},
		{"nodeGroups: [{name: A_B, nodeSelector: {}}]", "nodeGroups"},
		{"nodeGroups: [{name: a, nodeSelector: {x: 1}}]", "nodeSelector"},
		{"node: {kubeletDir: /var/lib/kubelet/}", "kubeletDir"},
		{"node: {updateStrategy: {rollingUpdate: {maxSurge: 1}}}", "maxSurge"},
		{"node: {tokenExpirationSeconds: 60}", "tokenExpirationSeconds"},
		{"node: {transfers: {bytesPerSecond: fast}}", "bytesPerSecond"},
		{"node: {image: {repository: x, digest: sha256:12}}", "digest"},
		{"link: {port: 80}", "port"},
		{"link: {certificates: {from: magic}}", "from"},
		{"link: {certificates: {days: 0}}", "days"},
		{"sidecars: {provisioner: {image: registry.example/csi-provisioner}}", "image"},
		{"sidecars: {provisioner: {args: [timeout=1s]}}", "args"},
		{"sidecars: {capacity: {pollInterval: soon}}", "pollInterval"},
		{"snapshots: yes", "snapshots"},
		{"storageClasses: [{name: a, bindingMode: Late, reclaimPolicy: Delete, allowVolumeExpansion: true}]", "bindingMode"},
		{"storageClasses: [{name: a, bindingMode: Immediate, reclaimPolicy: Delete, allowVolumeExpansion: true, parameters: {size: 1}}]", "parameters"},
		{"log: {level: loud}", "level"},
		{"metrics: {port: 80}", "port"},
		{"networkPolicy: {apiServerPorts: []}", "apiServerPorts"},
		{"networkPolicy: {dnsPorts: []}", "dnsPorts"},
		{"networkPolicy: {dnsPorts: [dns]}", "dnsPorts"},
		// What a schema cannot say.
		{"nodeGroups: [{name: a, nodeSelector: {x: a}}, {name: a, nodeSelector: {x: b}}]", "nodeGroups: a is there twice"},
		{"nodeGroups: [{name: a, nodeSelector: {x: a}}, {name: b, nodeSelector: {x: a}}]", "nodeGroups: b selects the same nodes"},
		{"link: {certificates: {from: existing, existingSecret: a}}", "existingConfigMap"},
		{"link: {certificates: {from: cert-manager}}", "install cert-manager first"},
		{"node: {stateDir: /srv/rockpool}", "pools.config: /var/lib/rockpool/pools/fast is not there for the nodes' pods, since node.stateDir is /srv/rockpool"},
		{"{node: {stateDir: /var/lib/rock}, pools: {hostPaths: [/var/lib/rockpool/pools]}}", "pools.config: /var/lib/rockpool/fast.img is not there"},
		{"{node: {stateDir: /srv/a}, pools: {config: a}, nodeGroups: [{name: b, nodeSelector: {}, config: \"path = '/var/lib/rockpool/b'\"}]}", "nodeGroups: b: config: /var/lib/rockpool/b is"},
		{"{node: {stateDir: /srv/a}, pools: {config: 'path = \"/var/lib/rockpool\"'}}", "pools.config: /var/lib/rockpool is not there"},
		{"metrics: {service: false, serviceMonitor: {enabled: true}}", "metrics.serviceMonitor: enabled, but metrics.service is false"},
		{"metrics: {port: 8081}", "metrics.port: 8081 is one of the sidecars'"},
		{"link: {port: 8083}", "link.port: 8083 is one of the sidecars'"},
		{"link: {port: 9808}", "metrics.port: 9808 is link.port as well"},
		{"snapshots: enabled", "snapshots: enabled, but the cluster has no snapshot.storage.k8s.io/v1"},
		{"groupSnapshots: enabled", "groupSnapshots: enabled, but the cluster has no groupsnapshot.storage.k8s.io/v1"},
		{"{groupSnapshots: enabled, snapshots: disabled}", "a group snapshot is made of snapshots"},
	} {
		_, err := attempt(t, values(t, wrong.values), bare)
		if err == nil {
			t.Errorf("%s: is taken", wrong.values)
		} else if !strings.Contains(err.Error(), wrong.says) {
			t.Errorf("%s: the refusal does not name %q: %v", wrong.values, wrong.says, err)
		}
	}
}

func TestAStateDirectoryElsewhereIsTakenWherePoolsAreSeen(t *testing.T) {
	for _, right := range []string{
		"node: {stateDir: /var/lib}",
		"{node: {stateDir: /srv/a}, pools: {hostPaths: [/var/lib/rockpool]}}",
		"{node: {stateDir: /srv/a}, pools: {hostPaths: [/var/lib/rockpool/pools, /srv/images]}, nodeGroups: [{name: b, nodeSelector: {}, config: 'path = \"/var/lib/rockpool/pools/b\"'}]}",
		"{node: {stateDir: /srv/a}, pools: {config: 'path = \"/srv/a/pools/fast\"'}}",
		"{node: {stateDir: /srv/a}, pools: {config: '# path = \"/var/lib/rockpool/pools/fast\"'}}",
		"{node: {stateDir: /srv/a}, nodeGroups: [{name: b, nodeSelector: {}, config: 'path = \"/srv/a/b\"'}]}",
	} {
		if _, err := attempt(t, values(t, right), bare); err != nil {
			t.Errorf("%s: %v", right, err)
		}
	}
}

func TestNotesSayWhatTheClusterLacks(t *testing.T) {
	for _, of := range []struct {
		in   cluster
		want string
	}{
		{bare, "No snapshots: the cluster has no snapshot.storage.k8s.io/v1"},
		{cluster{kube: "v1.36.0", apis: snapshotAPI}, "No group snapshots: the cluster has no groupsnapshot.storage.k8s.io/v1"},
		{everything, ""},
	} {
		notes := render(t, nil, of.in)["rockpool/templates/NOTES.txt"]
		if !strings.Contains(notes, "rockpool pool init fast") {
			t.Errorf("the notes do not tell how to make a pool:\n%s", notes)
		}
		if of.want != "" && !strings.Contains(notes, of.want) || of.want == "" && strings.Contains(notes, "No ") {
			t.Errorf("want %q in the notes:\n%s", of.want, notes)
		}
	}
}
