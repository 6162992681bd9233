//go:build cluster

package charts

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"token-sidecar/internal/testbed"
)

// TestCommands runs the commands for a cluster that the documentation has, as they stand there and in that order, from
// a copy of the sources. What a kubelet does fails only where the API server asks it.
func TestCommands(t *testing.T) {
	c := startCluster(t)
	kubelet := c.furnish(t)
	root := copyOfSources(t)
	for name, content := range installed(t) {
		write(t, filepath.Join(root, "my-service", name), content)
	}
	// Images are built and run by other tests, so that here docker has nothing to do.
	tools := t.TempDir()
	write(t, filepath.Join(tools, "docker"), "#!/bin/sh\n")
	var asked atomic.Int32
	shell := testbed.Shell{
		Dir: root,
		Environ: append(startRegistry(t), "KUBECONFIG="+c.config, "PATH="+tools+":"+os.Getenv("PATH"),
			"HELM_CACHE_HOME="+tools, "HELM_CONFIG_HOME="+tools, "HELM_DATA_HOME="+tools,
			"MAKEFLAGS=--no-print-directory -- VERSION=v0.1.0"),
		MayFail: func(output string) bool {
			refused := strings.Contains(output, "dial tcp "+kubelet+": connect: connection refused")
			if refused {
				asked.Add(1)
			}
			return refused
		},
	}
	paths, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var pages, run []string
	paths = append(paths, filepath.Join(root, "README.md"), filepath.Join(root, "charts/token-sidecar/README.md"))
	for _, path := range paths {
		page := regexp.MustCompile(`\bPOD\b`).ReplaceAllString(testbed.ReadFile(t, path), "my-service-0")
		pages = append(pages, page)
		commands := testbed.ConsoleCommands(page)
		if slices.ContainsFunc(commands, regexp.MustCompile(`^(kubectl|helm) `).MatchString) {
			shell.Console(t, page)
			run = append(run, commands...)
		}
	}
	for _, page := range append(pages, notes(t)) {
		for _, command := range testbed.OtherCommands(page, "kubectl", "helm") {
			named := func(longer string) bool { return strings.HasPrefix(longer+" ", command+" ") }
			if !slices.ContainsFunc(run, named) {
				shell.Run(t, command)
				run = append(run, command)
			}
		}
	}
	checkPreRelease(t, shell)
	if len(run) < 20 || asked.Load() < 6 {
		t.Errorf("%d commands were run, %d of them asked the kubelet: %q", len(run), asked.Load(), run)
	}
}

// checkPreRelease: a chart pushed before there is a tag is found by its version alone, as docs/install.md says.
func checkPreRelease(t *testing.T, shell testbed.Shell) {
	t.Helper()
	const show = "helm show chart oci://registry.example/untagged/charts/token-sidecar"
	shell.Environ = append(shell.Environ, "MAKEFLAGS=--no-print-directory -- VERSION=0123456")
	shell.Run(t, "make chart-push REGISTRY=registry.example/untagged")
	shell.Run(t, "! "+show)
	shell.Run(t, show+" --version 0.0.0-g0123456")
}

// notes are what the chart tells whoever installs it, with its commands where a page would have them.
func notes(t *testing.T) string {
	t.Helper()
	notes, err := Notes("my-service", sidecar, Rendering{Namespace: "demo", Values: []string{required}})
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.ReplaceAll(notes, "\n  ", "\n    "), " POD ", " my-service-0 ")
}

// copyOfSources returns a folder with what a clone would have.
func copyOfSources(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	script := "cd " + filepath.Join(folder, "..") + " && git ls-files -zco --exclude-standard | xargs -0 cp --parents -t " + root
	if out, err := exec.CommandContext(t.Context(), "bash", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	return root
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
}

// startRegistry starts an empty registry.example, and returns the environment in which it is reached.
func startRegistry(t *testing.T) (environ []string) {
	t.Helper()
	cert, key := testbed.Certificate(t, "registry.example")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	registry := httptest.NewUnstartedServer(ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0))))
	registry.Config.ErrorLog = log.New(io.Discard, "", 0) // clients may go without a word
	registry.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	registry.StartTLS()
	t.Cleanup(registry.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "registry.example:443" {
			http.Error(w, r.Host+" is not to be asked", http.StatusForbidden)
			return
		}
		to, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", registry.Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(to, from)
			_ = to.Close()
		}()
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}))
	t.Cleanup(proxy.Close)
	return []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + cert}
}

// furnish gives the cluster what readers of the documentation have: namespaces, a service in one of them, the Prometheus
// operator's kinds, and a node. It returns the address of the node's kubelet, where nobody listens.
func (c *cluster) furnish(t *testing.T) (kubelet string) {
	t.Helper()
	for _, namespace := range []string{"demo", "shop", "token-sidecar"} {
		c.must("", "kubectl", "create", "namespace", namespace)
		c.must("", "kubectl", "create", "serviceaccount", "default", "--namespace", namespace)
	}
	c.must("", "kubectl", "create", "deployment", "web", "--image", "web", "--namespace", "shop")
	for kind, plural := range map[string]string{"PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules"} {
		name := plural + ".monitoring.coreos.com"
		c.must(fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %s}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: %s, plural: %s}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, name, kind, plural), "kubectl", "create", "-f", "-")
		c.until(name+" is established", func() bool { // kubectl wait fails if there are no conditions yet
			_, err := c.try("", "kubectl", "wait", "--for=condition=Established", "crd/"+name)
			return err == nil
		})
	}
	port := freePort(t)
	c.must(`apiVersion: v1
kind: Node
metadata: {name: node}
status:
  addresses: [{type: InternalIP, address: 127.0.0.1}]
  daemonEndpoints: {kubeletEndpoint: {Port: `+port+`}}
`, "kubectl", "create", "-f", "-")
	config, err := clientcmd.BuildConfigFromFlags("", c.config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	go run(t.Context(), client)
	return "127.0.0.1:" + port
}

// run does what controllers and kubelets do, as far as commands notice it: each Deployment has a pod, and pods run, or
// have ended well if they are to end.
func run(ctx context.Context, client kubernetes.Interface) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if deployments, err := client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{}); err == nil {
			for _, d := range deployments.Items {
				p := &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec}
				p.Name, p.Spec.NodeName = d.Name+"-0", "node"
				_, _ = client.CoreV1().Pods(d.Namespace).Create(ctx, p, metav1.CreateOptions{})
			}
		}
		if pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); err == nil {
			for _, p := range pods.Items {
				if p.Status.Phase != corev1.PodPending {
					continue
				}
				p.Status.Phase = corev1.PodRunning
				if p.Spec.RestartPolicy == corev1.RestartPolicyNever {
					p.Status.Phase = corev1.PodSucceeded
				}
				_, _ = client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, &p, metav1.UpdateOptions{})
			}
		}
	}
}
