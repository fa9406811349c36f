package deploytest

import (
	"os"
	"slices"
	"strings"
	"testing"

	certificates "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	groups "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	storage "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	admission "k8s.io/pod-security-admission/api"
	security "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// renders are all kept renders, by name.
func renders(t *testing.T) map[string][]object {
	t.Helper()
	all := map[string][]object{}
	for _, set := range golden {
		all[set.name] = objects(t, render(t, given(t, "golden/"+set.name+".values.yaml"), set.in))
	}
	return all
}

func TestEveryFieldIsOneOfTheApi(t *testing.T) {
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		scheme.AddToScheme, snapshots.AddToScheme, groups.AddToScheme, certificates.AddToScheme, monitoring.AddToScheme,
	} {
		if err := add(known); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[string]bool{}
	for set, all := range renders(t) {
		for _, one := range all {
			typed, err := known.New(one.GroupVersionKind())
			if err != nil {
				t.Errorf("%s: %s: %v", set, one.GetName(), err)
				continue
			}
			kinds[one.GetKind()] = true
			text, err := yaml.YAMLToJSONStrict([]byte(one.source))
			if err != nil {
				t.Fatal(err)
			}
			// As strict as the API server, also about capitals.
			wrong, err := json.UnmarshalStrict(text, typed)
			if err != nil || len(wrong) > 0 {
				t.Errorf("%s: %s %s: %v %v", set, one.GetKind(), one.GetName(), err, wrong)
			}
			for _, label := range []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"} {
				if one.GetLabels()[label] == "" {
					t.Errorf("%s: %s %s has no label %s", set, one.GetKind(), one.GetName(), label)
				}
			}
		}
	}
	for _, kind := range []string{"CSIDriver", "StorageClass", "VolumeSnapshotClass", "VolumeGroupSnapshotClass", "StatefulSet", "DaemonSet", "Certificate", "ServiceMonitor"} {
		if !kinds[kind] {
			t.Errorf("no render has a %s", kind)
		}
	}
}

// templates are the pods that a render makes, by the name of their workload.
func templates(t *testing.T, all []object) map[string]core.PodTemplateSpec {
	t.Helper()
	pods := map[string]core.PodTemplateSpec{}
	for _, one := range kind[apps.StatefulSet](t, all, "StatefulSet") {
		pods[one.Name] = one.Spec.Template
	}
	for _, one := range kind[apps.DaemonSet](t, all, "DaemonSet") {
		pods[one.Name] = one.Spec.Template
	}
	return pods
}

func TestTheControllerIsHeldToTheRestrictedStandardAndTheNodeToWhatMountsNeed(t *testing.T) {
	checks, err := security.NewEvaluator(security.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := admission.LevelVersion{Level: admission.LevelRestricted, Version: admission.LatestVersion()}
	for set, all := range renders(t) {
		for name, pod := range templates(t, all) {
			refused := security.AggregateCheckResults(checks.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec))
			node := strings.Contains(name, "-node-")
			if node == refused.Allowed {
				t.Errorf("%s: %s: allowed under restricted is %t: %s", set, name, refused.Allowed, refused.ForbiddenDetail())
			}
			if pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC {
				t.Errorf("%s: %s shares a namespace with its host", set, name)
			}
			for _, container := range pod.Spec.Containers {
				held := container.SecurityContext
				if held == nil || held.ReadOnlyRootFilesystem == nil || !*held.ReadOnlyRootFilesystem {
					t.Errorf("%s: %s: %s may write to its root", set, name, container.Name)
				}
				if container.Resources.Requests.Memory().IsZero() || container.Resources.Requests.Cpu().IsZero() {
					t.Errorf("%s: %s: %s asks for no memory or CPU", set, name, container.Name)
				}
				if container.LivenessProbe == nil {
					t.Errorf("%s: %s: %s is not probed", set, name, container.Name)
				}
				for _, probe := range []*core.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
					at := func(port core.ContainerPort) bool { return probe == nil || port.Name == probe.HTTPGet.Port.StrVal }
					if !slices.ContainsFunc(container.Ports, at) {
						t.Errorf("%s: %s: %s is probed at a port that it has not", set, name, container.Name)
					}
				}
			}
		}
	}
}

func TestANodesPodSeesOfItsHostWhatItNeeds(t *testing.T) {
	for set, want := range map[string]string{
		"default": "/dev /var/lib/kubelet/plugins/csi.rockpool.dev /var/lib/kubelet/plugins/kubernetes.io/csi:Bidirectional " +
			"/var/lib/kubelet/plugins_registry /var/lib/kubelet/pods:Bidirectional /var/lib/rockpool:Bidirectional",
		"existing": "/dev /var/lib/kubelet/plugins/csi.rockpool.dev /var/lib/kubelet/plugins/kubernetes.io/csi:Bidirectional " +
			"/var/lib/kubelet/plugins_registry /var/lib/kubelet/pods:Bidirectional /var/lib/rockpool:HostToContainer",
		"full": "/dev /mnt/disks:HostToContainer /srv/pools:HostToContainer /var/lib/fast:Bidirectional " +
			"/var/lib/k0s/kubelet/plugins/fast.example.org /var/lib/k0s/kubelet/plugins/kubernetes.io/csi:Bidirectional " +
			"/var/lib/k0s/kubelet/plugins_registry /var/lib/k0s/kubelet/pods:Bidirectional",
	} {
		for name, pod := range templates(t, renders(t)[set]) {
			if !strings.Contains(name, "-node-") {
				for _, volume := range pod.Spec.Volumes {
					if volume.HostPath != nil {
						t.Errorf("%s: %s sees %s of its host", set, name, volume.HostPath.Path)
					}
				}
				continue
			}
			seen := map[string]bool{}
			for _, volume := range pod.Spec.Volumes {
				if volume.HostPath == nil {
					continue
				}
				for _, mount := range pod.Spec.Containers[0].VolumeMounts {
					if mount.Name != volume.Name {
						continue
					}
					if mount.MountPath != volume.HostPath.Path {
						t.Errorf("%s: %s: %s is %s in the container: paths from kubelet would lead elsewhere", set, name, volume.HostPath.Path, mount.MountPath)
					}
					at := mount.MountPath
					if mount.MountPropagation != nil {
						at += ":" + string(*mount.MountPropagation)
					}
					seen[at] = true
				}
			}
			if got := strings.Join(keys(seen), " "); got != want {
				t.Errorf("%s: %s sees\n  %s\nwant\n  %s", set, name, got, want)
			}
		}
	}
}

func TestANodesTokenIsForTheLinkAlone(t *testing.T) {
	for set, all := range renders(t) {
		driver := all[indexOf(t, all, "CSIDriver")].GetName()
		for name, pod := range templates(t, all) {
			if !strings.Contains(name, "-node-") {
				continue
			}
			if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
				t.Errorf("%s: %s has a token for the API", set, name)
			}
			tokens := 0
			for _, volume := range pod.Spec.Volumes {
				if volume.Projected == nil {
					continue
				}
				for _, source := range volume.Projected.Sources {
					if token := source.ServiceAccountToken; token != nil {
						tokens++
						if token.Audience != driver || *token.ExpirationSeconds > 3600 {
							t.Errorf("%s: %s: a token for %q of %d s", set, name, token.Audience, *token.ExpirationSeconds)
						}
					}
				}
			}
			if tokens != 1 {
				t.Errorf("%s: %s has %d tokens", set, name, tokens)
			}
		}
	}
}

func indexOf(t *testing.T, all []object, kind string) int {
	t.Helper()
	for i, one := range all {
		if one.GetKind() == kind {
			return i
		}
	}
	t.Fatalf("there is no %s", kind)
	return 0
}

func TestSelectorsMeetPodsAndPortsHaveNames(t *testing.T) {
	for set, all := range renders(t) {
		pods := templates(t, all)
		// met finds the pods of a selector, and the names and numbers of their ports.
		met := func(what string, selector labels.Selector) map[string]bool {
			ports := map[string]bool{}
			count := 0
			for _, pod := range pods {
				if !selector.Matches(labels.Set(pod.Labels)) {
					continue
				}
				count++
				for _, container := range pod.Spec.Containers {
					for _, port := range container.Ports {
						ports[port.Name] = true
					}
				}
			}
			if count == 0 || count == len(pods) {
				t.Errorf("%s: %s: %s selects %d of %d kinds of pods", set, what, selector, count, len(pods))
			}
			return ports
		}
		of := func(selector *metav1.LabelSelector) labels.Selector {
			read, err := metav1.LabelSelectorAsSelector(selector)
			if err != nil {
				t.Fatal(err)
			}
			return read
		}
		for _, one := range kind[core.Service](t, all, "Service") {
			ports := met("Service "+one.Name, labels.SelectorFromSet(one.Spec.Selector))
			for _, port := range one.Spec.Ports {
				if !ports[port.TargetPort.String()] {
					t.Errorf("%s: Service %s: its pods have no port %s", set, one.Name, port.TargetPort.String())
				}
			}
		}
		for _, one := range kind[policy.PodDisruptionBudget](t, all, "PodDisruptionBudget") {
			met("PodDisruptionBudget "+one.Name, of(one.Spec.Selector))
		}
		for _, one := range kind[networking.NetworkPolicy](t, all, "NetworkPolicy") {
			ports := met("NetworkPolicy "+one.Name, of(&one.Spec.PodSelector))
			for _, rule := range one.Spec.Ingress {
				for _, peer := range rule.From {
					if peer.PodSelector != nil {
						met("NetworkPolicy "+one.Name, of(peer.PodSelector))
					}
				}
				for _, port := range rule.Ports {
					if name := port.Port.StrVal; name != "" && !ports[name] {
						t.Errorf("%s: NetworkPolicy %s: its pods have no port %s", set, one.Name, name)
					}
				}
			}
		}
		for name, pod := range pods {
			for _, one := range kind[apps.StatefulSet](t, all, "StatefulSet") {
				if one.Name == name && !of(one.Spec.Selector).Matches(labels.Set(pod.Labels)) {
					t.Errorf("%s: %s does not select its own pods", set, name)
				}
			}
		}
	}
}

// A policy holds for the port of the pod behind a Service, and OpenShift's DNS listens at 5353.
func TestPodsReachDNSWhereverItsPodsListen(t *testing.T) {
	for given, want := range map[string]string{
		"{}":                                "TCP/53 TCP/5353 UDP/53 UDP/5353",
		"networkPolicy: {dnsPorts: [1053]}": "TCP/1053 UDP/1053",
	} {
		all := objects(t, render(t, values(t, given), bare))
		policies := kind[networking.NetworkPolicy](t, all, "NetworkPolicy")
		if len(policies) != 2 {
			t.Fatalf("%d policies", len(policies))
		}
		for _, one := range policies {
			found := map[string]bool{}
			for _, rule := range one.Spec.Egress {
				dns := slices.ContainsFunc(rule.Ports, func(port networking.NetworkPolicyPort) bool { return *port.Protocol == core.ProtocolUDP })
				for _, port := range rule.Ports {
					if dns && len(rule.To) == 0 {
						found[string(*port.Protocol)+"/"+port.Port.String()] = true
					}
				}
			}
			if got := strings.Join(keys(found), " "); got != want {
				t.Errorf("%s: %s lets out to %s, want %s", given, one.Name, got, want)
			}
		}
	}
}

func TestNodesFindAllControllersReadyOrNot(t *testing.T) {
	for set, all := range renders(t) {
		controllers := kind[apps.StatefulSet](t, all, "StatefulSet")[0]
		service := named[core.Service](t, all, "Service", controllers.Spec.ServiceName)
		if service.Spec.ClusterIP != core.ClusterIPNone || !service.Spec.PublishNotReadyAddresses {
			t.Errorf("%s: Service %s hides controllers", set, service.Name)
		}
		for name, pod := range templates(t, all) {
			if strings.Contains(name, "-node-") && !strings.Contains(strings.Join(pod.Spec.Containers[0].Args, " "), "--controller="+service.Name+".rockpool-system.svc:") {
				t.Errorf("%s: %s dials somebody else: %v", set, name, pod.Spec.Containers[0].Args)
			}
		}
	}
}

func TestARolloutLeavesMostNodesAlone(t *testing.T) {
	for set, all := range renders(t) {
		for _, one := range kind[apps.DaemonSet](t, all, "DaemonSet") {
			rolling := one.Spec.UpdateStrategy.RollingUpdate
			if rolling == nil || rolling.MaxUnavailable.String() != "10%" || rolling.MaxSurge != nil {
				t.Errorf("%s: %s: %v", set, one.Name, rolling)
			}
		}
	}
}

// A copy has the filesystem of its source, and another is refused: neither the class nor the provisioner may ask for one.
func TestTheClassForCopiesLeavesTheFilesystemToTheSource(t *testing.T) {
	examples, err := os.ReadFile("../examples/storageclasses.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile("../rockpool.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for in, all := range map[string][]object{
		"the chart":     renders(t)["default"],
		"the examples":  objects(t, map[string]string{"examples": string(examples)}),
		"rockpool.yaml": objects(t, map[string]string{"plain": string(plain)}),
	} {
		class := named[storage.StorageClass](t, all, "StorageClass", "rockpool-from-snapshot")
		if len(class.Parameters) > 0 {
			t.Errorf("%s: %s has %v", in, class.Name, class.Parameters)
		}
	}
	for at, container := range containers(t, "provisioner") {
		if strings.Contains(strings.Join(container.Args, " "), "default-fstype") {
			t.Errorf("%s gives every volume without a filesystem one", at)
		}
	}
}

func TestTheDriverObjectSaysWhatItMust(t *testing.T) {
	for set, want := range map[string]string{
		"default":  "attach=false podInfo=false capacity=true fsGroup=File seLinux=false missing=<nil>",
		"existing": "attach=false podInfo=false capacity=false fsGroup=File seLinux=false missing=<nil>",
		"full":     "attach=false podInfo=false capacity=true fsGroup=File seLinux=false missing=true",
	} {
		all := renders(t)[set]
		spec := all[indexOf(t, all, "CSIDriver")].Object["spec"].(map[string]any)
		got := "attach=" + word(spec["attachRequired"]) + " podInfo=" + word(spec["podInfoOnMount"]) + " capacity=" + word(spec["storageCapacity"]) +
			" fsGroup=" + word(spec["fsGroupPolicy"]) + " seLinux=" + word(spec["seLinuxMount"]) + " missing=" + word(spec["preventPodSchedulingIfMissing"])
		if got != want {
			t.Errorf("%s: %s, want %s", set, got, want)
		}
		if modes := word(spec["volumeLifecycleModes"]); modes != "[Persistent]" {
			t.Errorf("%s: volumeLifecycleModes %s", set, modes)
		}
	}
}
