// Command bench measures a driver through the Kubernetes API, as its users see it: how long a claim takes to be bound and a pod with a volume to be
// ready, one after the other and 500 at once. Every moment is that of a watch event; nothing polls. It prints one JSON object.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	namespace = flag.String("namespace", "bench", "an empty namespace to work in")
	immediate = flag.String("immediate", "", "a StorageClass that binds at once")
	waiting   = flag.String("waiting", "", "a StorageClass that waits for the first consumer")
	image     = flag.String("image", "", "the image of the pods, which has `sleep`")
	many      = flag.Int("many", 500, "so many claims at once")
	rounds    = flag.Int("rounds", 30, "so many, one after the other")
	size      = flag.String("size", "16Mi", "of a volume")
	patience  = flag.Duration("patience", 5*time.Minute, "for each part")
	node      = flag.String("node", "", "a node for the pods that are measured one after the other; any without it")
)

// A bench knows when what was first seen.
type bench struct {
	api   *kubernetes.Clientset
	mu    sync.Mutex
	seen  map[string]time.Time
	waits map[string]chan struct{}
}

func main() {
	log.SetFlags(log.Ltime)
	flag.Parse()
	if *immediate == "" || *waiting == "" || *image == "" {
		log.Fatal("want -immediate, -waiting and -image")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		log.Fatal(err)
	}
	// What is measured must not wait for its own client.
	config.QPS, config.Burst = 2000, 2000
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	b := &bench{api: api, seen: map[string]time.Time{}, waits: map[string]chan struct{}{}}
	b.watch()
	out := map[string]any{
		"one_by_one":           b.claims(),
		"pod":                  b.pods(),
		"at_once_immediate":    b.burst(false),
		"at_once_with_pods":    b.burst(true),
		"claims_at_once":       *many,
		"rounds_one_by_one":    *rounds,
		"size_of_each_volume":  *size,
		"storage_classes_used": []string{*immediate, *waiting},
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}

// watch notes the moment at which the first event shows a claim bound, or a pod scheduled or ready.
func (b *bench) watch() {
	stop := make(chan struct{})
	factory := informers.NewSharedInformerFactoryWithOptions(b.api, 0, informers.WithNamespace(*namespace))
	look := func(object any) {
		switch it := object.(type) {
		case *core.PersistentVolumeClaim:
			if it.Status.Phase == core.ClaimBound {
				b.note("bound/" + it.Name)
			}
		case *core.Pod:
			for _, condition := range it.Status.Conditions {
				if condition.Status == core.ConditionTrue && (condition.Type == core.PodReady || condition.Type == core.PodScheduled) {
					b.note(string(condition.Type) + "/" + it.Name)
				}
			}
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, now any) { look(now) },
		DeleteFunc: func(object any) {
			if named, ok := object.(meta.Object); ok {
				b.note("gone/" + named.GetName())
			}
		}}
	for _, informer := range []cache.SharedIndexInformer{factory.Core().V1().PersistentVolumeClaims().Informer(), factory.Core().V1().Pods().Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			log.Fatal(err)
		}
	}
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
}

func (b *bench) note(what string) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.seen[what]; known {
		return
	}
	b.seen[what] = now
	if wait, ok := b.waits[what]; ok {
		close(wait)
	}
}

// when waits for a moment.
func (b *bench) when(what string) time.Time {
	b.mu.Lock()
	wait, ok := b.waits[what]
	if at, known := b.seen[what]; known {
		b.mu.Unlock()
		return at
	}
	if !ok {
		wait = make(chan struct{})
		b.waits[what] = wait
	}
	b.mu.Unlock()
	select {
	case <-wait:
	case <-time.After(*patience):
		log.Fatalf("%s: not within %v; kubectl -n %s get events says more", what, *patience, *namespace)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[what]
}

func (b *bench) claim(name, class string) {
	claim := &core.PersistentVolumeClaim{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			AccessModes:      []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
			Resources:        core.VolumeResourceRequirements{Requests: core.ResourceList{core.ResourceStorage: resource.MustParse(*size)}},
		},
	}
	if _, err := b.api.CoreV1().PersistentVolumeClaims(*namespace).Create(context.Background(), claim, meta.CreateOptions{}); err != nil {
		log.Fatal(err)
	}
}

// pod makes one, with a claim if there is one. One that no kubelet runs is scheduled and turned away: Linux nodes take no Windows pods.
func (b *bench) pod(name, claim string, runs bool) {
	grace := int64(0)
	pod := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			RestartPolicy:                 core.RestartPolicyNever,
			Containers:                    []core.Container{{Name: "c", Image: *image, Command: []string{"sleep", "3600"}}},
		},
	}
	if *node != "" && runs {
		pod.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": *node}
	}
	if !runs {
		pod.Spec.OS = &core.PodOS{Name: core.Windows}
	}
	if claim != "" {
		source := core.VolumeSource{PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: claim}}
		pod.Spec.Volumes = []core.Volume{{Name: "data", VolumeSource: source}}
		pod.Spec.Containers[0].VolumeMounts = []core.VolumeMount{{Name: "data", MountPath: "/data"}}
	}
	if _, err := b.api.CoreV1().Pods(*namespace).Create(context.Background(), pod, meta.CreateOptions{}); err != nil {
		log.Fatal(err)
	}
}

func (b *bench) drop(pods, claims []string) {
	now := meta.DeleteOptions{}
	for _, name := range pods {
		if err := b.api.CoreV1().Pods(*namespace).Delete(context.Background(), name, now); err != nil {
			log.Fatal(err)
		}
	}
	for _, name := range pods {
		b.when("gone/" + name)
	}
	for _, name := range claims {
		if err := b.api.CoreV1().PersistentVolumeClaims(*namespace).Delete(context.Background(), name, now); err != nil {
			log.Fatal(err)
		}
	}
	for _, name := range claims {
		b.when("gone/" + name)
	}
	if len(claims) == 0 {
		return
	}
	// Nor is what comes next measured while volumes of these are deleted.
	for end := time.Now().Add(*patience); b.left() > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			log.Fatalf("PersistentVolumes of %s are left after %v", *namespace, *patience)
		}
	}
}

// left counts the PersistentVolumes of the driver's volumes.
func (b *bench) left() int {
	all, err := b.api.CoreV1().PersistentVolumes().List(context.Background(), meta.ListOptions{})
	if err != nil {
		log.Fatal(err)
	}
	count := 0
	for _, volume := range all.Items {
		if class := volume.Spec.StorageClassName; class == *immediate || class == *waiting {
			count++
		}
	}
	return count
}

// claims binds one after the other, in turn to a volume that is made for it and to a PersistentVolume of the cluster's own that waits for it: what
// Kubernetes takes by itself.
func (b *bench) claims() any {
	log.Printf("2 x %d claims, one after the other", *rounds)
	var made, there []time.Duration
	for i := range *rounds {
		name := fmt.Sprintf("one-%d", i)
		begun := time.Now()
		b.claim(name, *immediate)
		made = append(made, b.when("bound/"+name).Sub(begun))
		b.drop(nil, []string{name})

		name = fmt.Sprintf("kept-%d", i)
		b.reserve(name)
		begun = time.Now()
		b.claim(name, "bench-there")
		there = append(there, b.when("bound/"+name).Sub(begun))
		b.drop(nil, []string{name})
		if err := b.api.CoreV1().PersistentVolumes().Delete(context.Background(), "bench-"+name, meta.DeleteOptions{}); err != nil {
			log.Fatal(err)
		}
	}
	return map[string]any{"claim_to_bound_ms": summary(made), "to_a_volume_that_is_there_ms": summary(there)}
}

// reserve makes a PersistentVolume for a claim to come, of a directory of the host that nobody will mount.
func (b *bench) reserve(claim string) {
	volume := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: "bench-" + claim, Labels: map[string]string{"bench": "there"}},
		Spec: core.PersistentVolumeSpec{
			StorageClassName:              "bench-there",
			AccessModes:                   []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
			Capacity:                      core.ResourceList{core.ResourceStorage: resource.MustParse(*size)},
			ClaimRef:                      &core.ObjectReference{Namespace: *namespace, Name: claim},
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        core.PersistentVolumeSource{HostPath: &core.HostPathVolumeSource{Path: "/nonexistent"}},
		},
	}
	if _, err := b.api.CoreV1().PersistentVolumes().Create(context.Background(), volume, meta.CreateOptions{}); err != nil {
		log.Fatal(err)
	}
	// Its controller has seen it by then.
	time.Sleep(200 * time.Millisecond)
}

// pods starts one after the other, in turn without a volume, with one that is made once it is scheduled, with one that is bound already, and with one
// of a class that binds at once, which is asked for at the same moment.
func (b *bench) pods() any {
	log.Printf("4 x %d pods, one after the other", *rounds)
	plain, made, there, now := []time.Duration{}, []time.Duration{}, []time.Duration{}, []time.Duration{}
	for i := range *rounds {
		name := fmt.Sprintf("plain-%d", i)
		begun := time.Now()
		b.pod(name, "", true)
		plain = append(plain, b.when("Ready/"+name).Sub(begun))
		b.drop([]string{name}, nil)

		name = fmt.Sprintf("made-%d", i)
		begun = time.Now()
		b.claim("c-"+name, *waiting)
		b.pod(name, "c-"+name, true)
		made = append(made, b.when("Ready/"+name).Sub(begun))
		// The volume is there now: another pod only mounts it.
		b.drop([]string{name}, nil)
		next := fmt.Sprintf("there-%d", i)
		begun = time.Now()
		b.pod(next, "c-"+name, true)
		there = append(there, b.when("Ready/"+next).Sub(begun))
		b.drop([]string{next}, []string{"c-" + name})

		name = fmt.Sprintf("quick-%d", i)
		begun = time.Now()
		b.claim("c-"+name, *immediate)
		b.pod(name, "c-"+name, true)
		now = append(now, b.when("Ready/"+name).Sub(begun))
		b.drop([]string{name}, []string{"c-" + name})
	}
	median := func(of []time.Duration) float64 { return summary(of)["p50"] }
	return map[string]any{
		"without_a_volume_ms": summary(plain), "with_a_new_volume_ms": summary(made), "with_a_bound_volume_ms": summary(there),
		"with_a_volume_bound_at_once_ms": summary(now), "added_by_a_volume_bound_at_once_ms": median(now) - median(plain),
		"added_by_a_new_volume_ms": median(made) - median(plain), "added_by_a_bound_volume_ms": median(there) - median(plain),
	}
}

// burst makes many claims at once, with a pod each or without.
func (b *bench) burst(pods bool) any {
	class, kind := *immediate, "now"
	if pods {
		class, kind = *waiting, "pod"
	}
	log.Printf("%d claims at once, of the class %s", *many, class)
	var names, owners []string
	for i := range *many {
		names = append(names, fmt.Sprintf("%s-%d", kind, i))
		if pods {
			owners = append(owners, fmt.Sprintf("owner-%d", i))
		}
	}
	before := b.requests()
	begun, made := time.Now(), make([]time.Time, *many)
	var all sync.WaitGroup
	// As many as a client may have under way without waiting for itself.
	turn := make(chan struct{}, 50)
	for i, name := range names {
		all.Add(1)
		go func() {
			defer all.Done()
			turn <- struct{}{}
			made[i] = time.Now()
			b.claim(name, class)
			if pods {
				b.pod(owners[i], name, false)
			}
			<-turn
		}()
	}
	all.Wait()
	asked := time.Since(begun)
	var took []time.Duration
	last := begun
	for i, name := range names {
		bound := b.when("bound/" + name)
		took = append(took, bound.Sub(made[i]))
		if bound.After(last) {
			last = bound
		}
	}
	calls := b.requests()
	for key := range calls {
		calls[key] -= before[key]
	}
	b.drop(owners, names)
	return map[string]any{
		"all_asked_for_s": seconds(asked), "all_bound_s": seconds(last.Sub(begun)), "claim_to_bound_ms": summary(took),
		"requests_per_volume": perVolume(calls),
	}
}

var counted = regexp.MustCompile(`^apiserver_request_total\{(.*)\} (\S+)$`)
var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// requests are what the API server has answered so far, by verb and resource; watches and leases come of time, not of volumes.
func (b *bench) requests() map[string]float64 {
	text, err := b.api.RESTClient().Get().AbsPath("/metrics").DoRaw(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	found := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		match := counted.FindStringSubmatch(strings.TrimSpace(line))
		if match == nil {
			continue
		}
		labels := map[string]string{}
		for _, pair := range label.FindAllStringSubmatch(match[1], -1) {
			labels[pair[1]] = pair[2]
		}
		verb, of := labels["verb"], labels["resource"]
		if verb == "WATCH" || of == "leases" || of == "" {
			continue
		}
		if labels["subresource"] != "" {
			of += "/" + labels["subresource"]
		}
		count, err := strconv.ParseFloat(match[2], 64)
		if err != nil {
			log.Fatal(err)
		}
		found[verb+" "+of] += count
	}
	return found
}

func perVolume(calls map[string]float64) map[string]float64 {
	all := map[string]float64{}
	for key, count := range calls {
		all["all"] += count / float64(*many)
		if each := count / float64(*many); each >= 0.05 {
			all[key] = round(each)
		}
	}
	all["all"] = round(all["all"])
	return all
}

func summary(took []time.Duration) map[string]float64 {
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	at := func(share float64) float64 {
		return round(float64(took[int(share*float64(len(took)-1)+0.5)].Microseconds()) / 1000)
	}
	return map[string]float64{"p50": at(0.5), "p99": at(0.99), "min": at(0), "max": at(1)}
}

func seconds(took time.Duration) float64 { return round(took.Seconds()) }

func round(value float64) float64 { return float64(int64(value*100+0.5)) / 100 }
