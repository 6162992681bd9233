//go:build cluster

package charts

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// A cluster is a real API server with etcd behind it. There is no kubelet: pods are admitted, not run.
type cluster struct {
	t      *testing.T
	config string
}

func freePort(t *testing.T) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(testbed.FreeAddr(t))
	return port
}

func start(t *testing.T, log string, name string, args ...string) {
	t.Helper()
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			content, _ := os.ReadFile(log)
			t.Logf("%s:\n%s", name, content[max(0, len(content)-1000):])
		}
	})
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	etcd, peer, port := freePort(t), freePort(t), freePort(t)
	start(t, file("etcd.log", ""), "etcd", "--unsafe-no-fsync", "--data-dir", file("etcd", ""), "--listen-client-urls",
		"http://127.0.0.1:"+etcd,
		"--advertise-client-urls", "http://127.0.0.1:"+etcd, "--listen-peer-urls", "http://127.0.0.1:"+peer,
		"--initial-advertise-peer-urls", "http://127.0.0.1:"+peer, "--initial-cluster", "default=http://127.0.0.1:"+peer)
	key := file("sa.key", "")
	if out, err := exec.CommandContext(t.Context(), "openssl", "genrsa", "-out", key,
		"2048").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	start(t, file("apiserver.log", ""), "kube-apiserver", "--etcd-servers", "http://127.0.0.1:"+etcd, "--bind-address",
		"127.0.0.1",
		"--secure-port", port, "--cert-dir", dir, "--token-auth-file",
		file("tokens", "admin-token,admin,admin,system:masters\n"),
		"--service-account-key-file", key, "--service-account-signing-key-file", key, "--service-account-issuer",
		"https://kubernetes.default.svc",
		"--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.0.0.0/24",
		"--runtime-config", "admissionregistration.k8s.io/v1beta1=true")
	c := &cluster{t: t, config: file("kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:%s", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: admin-token}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: demo}}]
current-context: x
`, port))}
	c.until("the API server is ready",
		func() bool { _, err := c.try("", "kubectl", "get", "--raw", "/readyz"); return err == nil })
	return c
}

// try runs a command against the cluster.
func (c *cluster) try(stdin string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(context.WithoutCancel(c.t.Context()), name, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.config)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *cluster) must(stdin string, name string, args ...string) string {
	c.t.Helper()
	out, err := c.try(stdin, name, args...)
	if err != nil {
		c.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func (c *cluster) until(what string, met func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: still not so", what)
		}
		<-tick.C
	}
}

// A pod is the tested part of an admitted pod.
type pod struct {
	Metadata struct {
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		InitContainers []struct {
			Name          string `json:"name"`
			RestartPolicy string `json:"restartPolicy"`
			VolumeMounts  []struct {
				Name string `json:"name"`
			} `json:"volumeMounts"`
		} `json:"initContainers"`
		Containers []struct {
			Name         string `json:"name"`
			VolumeMounts []struct {
				Name string `json:"name"`
			} `json:"volumeMounts"`
		} `json:"containers"`
		Volumes []struct {
			Name string `json:"name"`
		} `json:"volumes"`
	} `json:"spec"`
}

func (p pod) names() (init, volumes []string) {
	for _, c := range p.Spec.InitContainers {
		init = append(init, c.Name)
	}
	for _, v := range p.Spec.Volumes {
		volumes = append(volumes, v.Name)
	}
	return init, volumes
}

// admit creates a pod and returns the admitted one; with dryRun the server does not store it.
func (c *cluster) admit(name, namespace, labels, more string, dryRun bool, as ...string) pod {
	c.t.Helper()
	manifest := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"namespace":%q,"labels":%s},"spec":{
"automountServiceAccountToken":false,"securityContext":{"runAsNonRoot":true,"runAsUser":1000,"seccompProfile":{"type":"RuntimeDefault"}},
"containers":[{"name":"app","image":"app","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]%s}}`, name, namespace, labels, more)
	args := append([]string{"create", "-f", "-", "-o", "json"}, as...)
	if dryRun {
		args = append(args, "--dry-run=server")
	}
	var p pod
	if err := json.Unmarshal([]byte(c.must(manifest, "kubectl", args...)), &p); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// TestInjection installs, upgrades, rolls back and uninstalls the chart on a real API server, and checks the pods that
// it admits.
func TestInjection(t *testing.T) {
	c := startCluster(t)
	for _, namespace := range []string{"demo", "other"} {
		c.must("", "kubectl", "create", "namespace", namespace)
		c.must("", "kubectl", "create", "serviceaccount", "default", "--namespace", namespace)
		c.must("", "kubectl", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
	}
	const values = "image.repository=token-sidecar,humanapi.clientId=a,humanapi.clientSecret=s,injection.enabled=true"
	release := c.release("demo", "demo")
	release.install(sidecar, values)
	const optedIn = `{"token-sidecar/inject":"true"}`
	injected := func(p pod) bool {
		init, _ := p.names()
		return len(init) > 0 && init[0] == "token-sidecar"
	}
	c.until("pods are injected", func() bool { return injected(c.admit("probe", "demo", optedIn, "", true)) })

	for name, p := range map[string]pod{
		"bare":    c.admit("bare", "demo", optedIn, "", false),
		"dry run": c.admit("dry", "demo", optedIn, "", true),
		"with lists": c.admit("lists", "demo", optedIn,
			`,"volumes":[{"name":"mine","emptyDir":{}}],"initContainers":[{"name":"migrate","image":"m","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]`, false),
		"of a Job": c.admit("job", "demo", optedIn, `,"restartPolicy":"Never"`, false),
	} {
		init, volumes := p.names()
		if len(init) == 0 || init[0] != "token-sidecar" || p.Spec.InitContainers[0].RestartPolicy != "Always" ||
			strings.Count(strings.Join(init, " "), "token-sidecar") != 1 {
			t.Errorf("%s: init containers %v", name, init)
		}
		if volumes[0] != "token-sidecar" || len(p.Spec.Containers[0].VolumeMounts) != 0 ||
			len(p.Spec.InitContainers[0].VolumeMounts) != 1 {
			t.Errorf("%s: volumes %v, mounts of the app %v, of the sidecar %v", name, volumes, p.Spec.Containers[0].VolumeMounts,
				p.Spec.InitContainers[0].VolumeMounts)
		}
		if name == "with lists" && (len(init) != 2 || init[1] != "migrate" || len(volumes) != 2) {
			t.Errorf("%s: %v, %v", name, init, volumes)
		}
	}
	// An admitted pod that is created again unchanged is not injected twice.
	again := c.must("", "kubectl", "get", "pod", "bare", "-o", "json")
	c.must("", "kubectl", "delete", "pod", "bare", "--grace-period=0", "--force")
	var second pod
	if err := json.Unmarshal([]byte(c.must(strings.Replace(again, `"resourceVersion"`, `"was"`, 1), "kubectl", "create",
		"--validate=false", "-f", "-", "-o", "json")), &second); err != nil {
		t.Fatal(err)
	}
	if init, volumes := second.names(); len(init) != 1 || len(volumes) != 1 {
		t.Errorf("created again: %v, %v", init, volumes)
	}
	c.checkTemplates(injected)
	c.checkReinvocation(injected)
	// A user who may only create pods gets the sidecar too, and no more rights.
	c.must("", "kubectl", "create", "role", "pods", "--verb", "create", "--resource", "pods")
	c.must("", "kubectl", "create", "rolebinding", "pods", "--role", "pods", "--user", "dev")
	c.until("the role is in force", func() bool {
		_, err := c.try("", "kubectl", "auth", "can-i", "create", "pods", "--as", "dev")
		return err == nil
	})
	if p := c.admit("of-dev", "demo", optedIn, "", false, "--as", "dev"); !injected(p) {
		t.Error("a pod of somebody with few rights was not injected")
	}
	if out, err := c.try("", "kubectl", "auth", "can-i", "get", "secrets", "--as", "dev"); err == nil {
		t.Errorf("who may create pods may read secrets: %s", out)
	}
	if injected(c.admit("unlabelled", "demo", "{}", "", false)) ||
		injected(c.admit("opted-out", "demo", `{"token-sidecar/inject":"false"}`, "", false)) {
		t.Error("a pod without the label was injected")
	}
	if injected(c.admit("elsewhere", "other", optedIn, "", false)) {
		t.Error("a pod of another namespace was injected")
	}

	inForce := func() bool {
		return strings.Contains(c.must("", "kubectl", "get", "mutatingadmissionpolicies", "-o",
			"jsonpath={.items[*].spec.variables[*].expression}"), `orValue("hip")`)
	}
	release.upgrade(sidecar, values, "humanapi.product=hip")
	c.until("the upgrade is in force", inForce)
	release.rollback(1)
	if inForce() {
		t.Error("the rollback left the upgrade in force")
	}
	release.uninstall()
	c.until("pods are left alone again", func() bool { return !injected(c.admit("probe", "demo", optedIn, "", true)) })
	if out := c.must("", "kubectl", "get",
		"secrets,mutatingadmissionpolicies,mutatingadmissionpolicybindings,validatingadmissionpolicies,"+
			"validatingadmissionpolicybindings", "-o",
		"name"); strings.TrimSpace(out) != "" {
		t.Errorf("left behind: %s", out)
	}
}

// checkTemplates creates objects that make pods: these are not changed, but the pods of their templates are injected.
// Such a Job can end, because it does not wait for the sidecar.
func (c *cluster) checkTemplates(injected func(pod) bool) {
	const template = `"template":{"metadata":{"labels":{"app":"made","token-sidecar/inject":"true"}},
"spec":{"restartPolicy":%q,"automountServiceAccountToken":false,
"securityContext":{"runAsNonRoot":true,"runAsUser":1000,"seccompProfile":{"type":"RuntimeDefault"}},
"containers":[{"name":"app","image":"app","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}}`
	for kind, manifest := range map[string]string{
		"deployment": `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"made"},"spec":{"selector":{"matchLabels":{"app":"made"}},` + fmt.Sprintf(template, "Always") + `}}`,
		"job": `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"made"},"spec":{` + fmt.Sprintf(template,
			"Never") + `}}`,
	} {
		c.must(manifest, "kubectl", "create", "-f", "-")
		made := c.podOf(kind, "made")
		if strings.Contains(made, "/etc/token-sidecar") {
			c.t.Errorf("the template of the %s was changed: %s", kind, made)
		}
		for _, more := range [][]string{{"--dry-run=server"}, nil} {
			var p pod
			if err := json.Unmarshal([]byte(c.must(made, "kubectl", append([]string{"create", "-f", "-", "-o", "json"},
				more...)...)), &p); err != nil {
				c.t.Fatal(err)
			}
			if init, _ := p.names(); !injected(p) || len(init) != 1 || len(p.Spec.Containers) != 1 ||
				p.Spec.InitContainers[0].RestartPolicy != "Always" {
				c.t.Errorf("a pod of the %s has init containers %v", kind, init)
			}
		}
	}
}

// podOf returns the pod that a controller would make of an object's template.
func (c *cluster) podOf(kind, name string) string {
	c.t.Helper()
	var object struct {
		Spec struct {
			Template map[string]any `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(c.must("", "kubectl", "get", kind, name, "-o", "json")), &object); err != nil {
		c.t.Fatal(err)
	}
	p := object.Spec.Template
	p["apiVersion"], p["kind"] = "v1", "Pod"
	p["metadata"].(map[string]any)["name"] = "pod-of-" + kind + "-" +
		strings.ToLower(strconv.FormatInt(time.Now().UnixNano(), 36))
	manifest, err := json.Marshal(p)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(manifest)
}

// checkReinvocation lets another policy change pods after ours, so that ours is called again: it injects only once.
func (c *cluster) checkReinvocation(injected func(pod) bool) {
	c.must(`apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: zz-later}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  mutations:
    - patchType: ApplyConfiguration
      applyConfiguration: {expression: 'Object{metadata: Object.metadata{annotations: {"later": "was here"}}}'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: zz-later}
spec: {policyName: zz-later}
`, "kubectl", "create", "-f", "-")
	var p pod
	c.until("the other policy is in force", func() bool {
		p = c.admit("again", "demo", `{"token-sidecar/inject":"true"}`, "", true)
		return p.Metadata.Annotations["later"] != ""
	})
	if init, volumes := p.names(); !injected(p) || len(init) != 1 || len(volumes) != 1 {
		c.t.Errorf("asked again: %v, %v", init, volumes)
	}
	c.must("", "kubectl", "delete", "mutatingadmissionpolicy,mutatingadmissionpolicybinding", "zz-later")
}

// TestServiceIsAdmitted: the example service, with the chart as its dependency, passes the server's validation
// and pod security.
func TestServiceIsAdmitted(t *testing.T) {
	c := startCluster(t)
	c.must("", "kubectl", "create", "namespace", "demo")
	c.must("", "kubectl", "create", "serviceaccount", "default", "--namespace", "demo")
	c.must("", "kubectl", "label", "namespace", "demo", "pod-security.kubernetes.io/enforce=restricted",
		"pod-security.kubernetes.io/warn=restricted")
	c.must("", "make", "-C", "../../..", "manifest")
	c.must("", "kubectl", "apply", "--dry-run=server", "--namespace", "demo", "-k", "../../../bin/manifest")
	release, service := c.release("demo", "demo"), exampleService(t)
	for _, mode := range []string{"native", "plain"} {
		if values := "token-sidecar.mode=" + mode; mode == "native" {
			release.install(service, values)
		} else {
			release.upgrade(service, values)
		}
		if release.warnings.Len() != 0 {
			t.Errorf("%s: %s", mode, &release.warnings)
		}
		c.must(c.podOf("deployment", "demo"), "kubectl", "create", "-f", "-")
	}
}

// TestGoldenFilesAreAdmitted: the server accepts everything that the charts render, without dropping a field.
func TestGoldenFilesAreAdmitted(t *testing.T) {
	c := startCluster(t)
	c.must("", "kubectl", "create", "namespace", "demo")
	c.must("", "kubectl", "create", "namespace", "monitoring") // the dashboard's
	c.must("", "kubectl", "create", "serviceaccount", "default", "--namespace", "demo")
	for _, document := range documents(t) {
		if out, err := c.try(document, "kubectl", "create", "--dry-run=server", "--validate=strict", "-f", "-"); err != nil {
			t.Errorf("%s%s", out, document)
		}
	}
}
