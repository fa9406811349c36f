package deploytest

import (
	"slices"
	"sort"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
)

// What the controllers' account may do, all of it: a right that is not here is one too many, one that is missing breaks a program.
// Who needs it: P provisioner, R resizer, S snapshotter, C our controller, L the choice of a leader.
const allowed = `
cluster /events create,list,patch,update,watch                                  P R S C
cluster /nodes get,list,watch                                                   P C
cluster /persistentvolumeclaims get,list,update,watch                           P R C
cluster /persistentvolumeclaims/status patch                                    R
cluster /persistentvolumes create,delete,get,list,patch,watch                   P R C
cluster authentication.k8s.io/tokenreviews create                               C
cluster events.k8s.io/events create,get,patch                                   C
cluster storage.k8s.io/csinodes get,list,watch                                  P C
cluster storage.k8s.io/storageclasses get,list,watch                            P C
cluster storage.k8s.io/volumeattributesclasses get,list,watch                   R
namespace /configmaps[rockpool-state] get,update                                C
namespace /pods get                                                             P
namespace coordination.k8s.io/leases create,delete,get,list,update,watch        L C
namespace storage.k8s.io/csistoragecapacities create,delete,get,list,patch,update,watch  P
`

const allowedWithSnapshots = `
cluster snapshot.storage.k8s.io/volumesnapshotclasses get,list,watch            S
cluster snapshot.storage.k8s.io/volumesnapshotcontents get,list,patch,update,watch  P S
cluster snapshot.storage.k8s.io/volumesnapshotcontents/status patch,update      S
cluster snapshot.storage.k8s.io/volumesnapshots get,list,update,watch           P
`

const allowedWithGroups = `
cluster groupsnapshot.storage.k8s.io/volumegroupsnapshotclasses get,list,watch  S
cluster groupsnapshot.storage.k8s.io/volumegroupsnapshotcontents get,list,patch,update,watch  S
cluster groupsnapshot.storage.k8s.io/volumegroupsnapshotcontents/status patch,update  S
`

// listed reads such a list, without who needs it.
func listed(lists ...string) []string {
	var all []string
	for _, list := range lists {
		for line := range strings.Lines(list) {
			if words := strings.Fields(line); len(words) > 0 {
				all = append(all, strings.Join(words[:3], " "))
			}
		}
	}
	sort.Strings(all)
	return all
}

// spelled writes rules as such a list.
func spelled(scope string, rules []rbac.PolicyRule) []string {
	var all []string
	for _, rule := range rules {
		verbs := slices.Clone(rule.Verbs)
		sort.Strings(verbs)
		names := ""
		if len(rule.ResourceNames) > 0 {
			names = "[" + strings.Join(rule.ResourceNames, ",") + "]"
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				all = append(all, scope+" "+group+"/"+resource+names+" "+strings.Join(verbs, ","))
			}
		}
		for _, url := range rule.NonResourceURLs {
			all = append(all, scope+" "+url+" "+strings.Join(verbs, ","))
		}
	}
	return all
}

func TestTheControllersMayDoThisAndNothingElse(t *testing.T) {
	for set, want := range map[string][]string{
		"default":  listed(allowed),
		"existing": listed(allowed, allowedWithSnapshots),
		"full":     listed(allowed, allowedWithSnapshots, allowedWithGroups),
	} {
		all := renders(t)[set]
		var got []string
		for _, role := range kind[rbac.ClusterRole](t, all, "ClusterRole") {
			got = append(got, spelled("cluster", role.Rules)...)
		}
		for _, role := range kind[rbac.Role](t, all, "Role") {
			got = append(got, spelled("namespace", role.Rules)...)
		}
		sort.Strings(got)
		for _, one := range got {
			if !slices.Contains(want, one) {
				t.Errorf("%s: too much: %s", set, one)
			}
			if strings.Contains(one, "*") || strings.Contains(one, "/secrets") {
				t.Errorf("%s: never: %s", set, one)
			}
		}
		for _, one := range want {
			if !slices.Contains(got, one) {
				t.Errorf("%s: missing: %s", set, one)
			}
		}
	}
}

func TestRightsGoToTheControllersAccountAlone(t *testing.T) {
	for set, all := range renders(t) {
		var subjects []rbac.Subject
		for _, one := range kind[rbac.ClusterRoleBinding](t, all, "ClusterRoleBinding") {
			subjects = append(subjects, one.Subjects...)
		}
		for _, one := range kind[rbac.RoleBinding](t, all, "RoleBinding") {
			subjects = append(subjects, one.Subjects...)
		}
		if len(subjects) != 2 {
			t.Errorf("%s: %d subjects", set, len(subjects))
		}
		for _, subject := range subjects {
			if subject.Kind != "ServiceAccount" || subject.Name != "rockpool-controller" || subject.Namespace != "rockpool-system" {
				t.Errorf("%s: rights for %v", set, subject)
			}
		}
		if accounts := kind[core.ServiceAccount](t, all, "ServiceAccount"); len(accounts) != 2 {
			t.Errorf("%s: %d accounts", set, len(accounts))
		}
		for name, pod := range templates(t, all) {
			want := "rockpool-controller"
			if strings.Contains(name, "-node-") {
				want = "rockpool-node"
			}
			if pod.Spec.ServiceAccountName != want {
				t.Errorf("%s: %s runs as %s", set, name, pod.Spec.ServiceAccountName)
			}
		}
	}
}

// A stolen node can read whatever its own pods may mount: that must never be the controllers' key.
func TestNoNodeCanReadTheControllersKey(t *testing.T) {
	for set, all := range renders(t) {
		held := map[string]bool{}
		for name, pod := range templates(t, all) {
			for _, volume := range pod.Spec.Volumes {
				if volume.Secret == nil {
					continue
				}
				if !strings.Contains(name, "-node-") {
					held[volume.Secret.SecretName] = true
					continue
				}
				items := volume.Secret.Items
				if set != "full" || volume.Secret.SecretName != "rockpool-link-trust" || len(items) != 1 || items[0].Key != "ca.crt" {
					t.Errorf("%s: %s mounts of Secret %s: %v", set, name, volume.Secret.SecretName, items)
				}
			}
			for _, container := range pod.Spec.Containers {
				if len(container.EnvFrom) > 0 {
					t.Errorf("%s: %s takes its environment from elsewhere", set, name)
				}
				for _, env := range container.Env {
					if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
						t.Errorf("%s: %s has a secret in its environment", set, name)
					}
				}
			}
		}
		want := map[string]string{"default": "rockpool-link", "existing": "my-link", "full": "rockpool-link"}[set]
		if got := strings.Join(keys(held), " "); got != want {
			t.Errorf("%s: controllers mount the Secrets %s, want %s", set, got, want)
		}
	}
}
