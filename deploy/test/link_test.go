package deploytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificates "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"
)

// Made is what the chart made for the link.
type made struct {
	secret *core.Secret
	trust  *core.ConfigMap
}

// A store is a cluster that holds what an earlier install made.
type store struct{ client dynamic.Interface }

func (s store) GetClientFor(version, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	resource := schema.GroupVersionResource{Version: version, Resource: strings.ToLower(kind) + "s"}
	return s.client.Resource(resource), true, nil
}

func holding(objects ...runtime.Object) store {
	return store{fake.NewSimpleDynamicClient(scheme.Scheme, objects...)}
}

func TestTheNamespaceIsNotMadeByAnInstall(t *testing.T) {
	given := "namespace: {create: true}"
	there := holding(&core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
	if _, err := attempt(t, values(t, given), cluster{kube: "v1.36.0", held: there}); err == nil || !strings.Contains(err.Error(), "cannot work with helm install") {
		t.Errorf("an install in a cluster: %v", err)
	}
	if _, err := attempt(t, nil, cluster{kube: "v1.36.0", held: there}); err != nil {
		t.Errorf("an install without it: %v", err)
	}
	// What `helm template` does, which sees no cluster.
	named[core.Namespace](t, objects(t, render(t, values(t, given), bare)), "Namespace", "rockpool-system")
}

func link(t *testing.T, generation int, held store) made {
	t.Helper()
	given := values(t, fmt.Sprintf("link: {certificates: {generation: %d}}", generation))
	all := objects(t, render(t, given, cluster{kube: "v1.36.0", held: held}))
	return made{
		secret: named[core.Secret](t, all, "Secret", "rockpool-link"),
		trust:  named[core.ConfigMap](t, all, "ConfigMap", "rockpool-link-trust"),
	}
}

// authorities are the certificates that nodes trust, in their order.
func (m made) authorities(t *testing.T) []*x509.Certificate {
	t.Helper()
	return parse(t, []byte(m.trust.Data["ca.crt"]))
}

func parse(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		read, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, read)
	}
	if len(bytes.TrimSpace(text)) > 0 {
		t.Fatalf("what is this: %q", text)
	}
	return all
}

func TestTheCertificateIsOneThatNodesTake(t *testing.T) {
	one := link(t, 1, holding())
	leaf, authority := parse(t, one.secret.Data["tls.crt"])[0], one.authorities(t)[0]
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "rockpool-controller", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Error(err)
	}
	if valid := time.Until(leaf.NotAfter); valid < 3649*24*time.Hour || valid > 3651*24*time.Hour {
		t.Errorf("it is valid for %s", valid)
	}
	if len(leaf.URIs) != 0 || leaf.IsCA {
		t.Errorf("it could be a node's or an authority's: %v %t", leaf.URIs, leaf.IsCA)
	}
	if _, err := tls.X509KeyPair(one.secret.Data["tls.crt"], one.secret.Data["tls.key"]); err != nil {
		t.Error(err)
	}
	other := link(t, 1, holding()).authorities(t)[0]
	if bytes.Equal(authority.RawSubject, other.RawSubject) {
		t.Errorf("two installs have authorities of one name, %s", authority.Subject)
	}
}

func TestTheAuthoritysKeyIsKeptNowhere(t *testing.T) {
	files := render(t, nil, cluster{kube: "v1.36.0", held: holding()})
	if count := strings.Count(text(t, files), "tls.key: "); count != 1 {
		t.Errorf("%d keys in the render", count)
	}
	one := link(t, 1, holding())
	pair, err := tls.X509KeyPair(one.secret.Data["tls.crt"], one.secret.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	if pair.PrivateKey.(*ecdsa.PrivateKey).PublicKey.Equal(one.authorities(t)[0].PublicKey) {
		t.Error("the key that is kept is the authority's")
	}
}

func TestAnUpgradeKeepsTheCertificateAndAnotherGenerationMakesOneThatBothTrust(t *testing.T) {
	first := link(t, 1, holding())
	again := link(t, 1, holding(first.secret, first.trust))
	if !bytes.Equal(first.secret.Data["tls.key"], again.secret.Data["tls.key"]) || first.trust.Data["ca.crt"] != again.trust.Data["ca.crt"] {
		t.Error("an upgrade made another certificate")
	}
	second := link(t, 2, holding(first.secret, first.trust))
	if bytes.Equal(first.secret.Data["tls.key"], second.secret.Data["tls.key"]) {
		t.Error("another generation has the same key")
	}
	trusted := second.authorities(t)
	if len(trusted) != 2 || !trusted[1].Equal(first.authorities(t)[0]) || parse(t, second.secret.Data["tls.crt"])[0].CheckSignatureFrom(trusted[0]) != nil {
		t.Errorf("the second generation trusts %d authorities", len(trusted))
	}
	kept := link(t, 2, holding(second.secret, second.trust))
	if kept.trust.Data["ca.crt"] != second.trust.Data["ca.crt"] {
		t.Error("an upgrade changed the second generation")
	}
	third := link(t, 3, holding(second.secret, second.trust)).authorities(t)
	if len(third) != 2 || third[1].Equal(first.authorities(t)[0]) {
		t.Errorf("the third generation trusts %d authorities, or still the first", len(third))
	}
	// Half of it is worth nothing.
	if lost := link(t, 1, holding(first.secret)); bytes.Equal(lost.secret.Data["tls.key"], first.secret.Data["tls.key"]) {
		t.Error("a certificate is kept whose authority is gone")
	}
}

func TestWithCertManagerNodesMountAnAuthorityAndNoKeyOfUse(t *testing.T) {
	all := renders(t)["full"]
	if len(kind[core.Secret](t, all, "Secret")) != 0 {
		t.Error("the chart makes a Secret of its own")
	}
	for _, one := range kind[certificates.Certificate](t, all, "Certificate") {
		want := map[string]string{
			"rockpool-link":           "[rockpool-controller] [digital signature server auth] false",
			"rockpool-link-trust":     "[only-for-its-authority.invalid] [digital signature] false",
			"rockpool-link-authority": "[] [] true",
		}[one.Name]
		if got := fmt.Sprint(one.Spec.DNSNames, one.Spec.Usages, one.Spec.IsCA); got != want {
			t.Errorf("%s: %s, want %s", one.Name, got, want)
		}
		if one.Spec.SecretName != one.Name {
			t.Errorf("%s writes to %s", one.Name, one.Spec.SecretName)
		}
	}
}

func TestAControllerServesWithWhatTheChartMade(t *testing.T) {
	one := link(t, 1, holding())
	dir := t.TempDir()
	put := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// A port that is free now.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().String()
	listener.Close()
	var log bytes.Buffer
	controller := exec.Command(binary(t), "controller", "--endpoint=unix://"+dir+"/c.sock", "--listen="+at, "--pool-kinds=image",
		"--link-ca="+put("ca.crt", []byte(one.trust.Data["ca.crt"])),
		"--link-certificate="+put("tls.crt", one.secret.Data["tls.crt"]), "--link-key="+put("tls.key", one.secret.Data["tls.key"]))
	controller.Stderr = &log
	if err := controller.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		controller.Process.Kill()
		controller.Wait()
	}()
	roots := x509.NewCertPool()
	roots.AddCert(one.authorities(t)[0])
	config := &tls.Config{RootCAs: roots, ServerName: "rockpool-controller", NextProtos: []string{"rockpool-link"}, MinVersion: tls.VersionTLS13}
	var last error
	for range 100 {
		connection, err := tls.Dial("tcp", at, config)
		if err == nil {
			connection.Close()
			return
		}
		last = err
		time.Sleep(100 * time.Millisecond)
	}
	controller.Process.Kill()
	controller.Wait()
	t.Errorf("%v; the controller said:\n%s", last, log.String())
}
