// Package charts holds the Helm charts; its tests render them with the real Helm.
package charts

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// kubernetes is the version that charts are rendered for.
const kubernetes = "1.36.0"

// helm runs Helm and returns what it printed.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if args[0] == "template" {
		args = append([]string{"template", "--kube-version", kubernetes}, args[1:]...)
	}
	cmd := exec.CommandContext(t.Context(), "helm", args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// exampleService returns a copy of the example with the chart as its dependency.
func exampleService(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, chart := range []string{"token-sidecar", "example-service"} {
		if err := os.CopyFS(filepath.Join(dir, chart), os.DirFS(chart)); err != nil {
			t.Fatal(err)
		}
	}
	service := filepath.Join(dir, "example-service")
	if out, err := helm(t, "dependency", "build", service); err != nil {
		t.Fatal(out)
	}
	return service
}

func TestLint(t *testing.T) {
	values := []string{"--strict", "--set", "humanapi.clientId=a,humanapi.existingSecret=b"}
	if out, err := helm(t, append([]string{"lint", "token-sidecar"}, values...)...); err != nil {
		t.Error(out)
	}
	if out, err := helm(t, "lint", "--strict", exampleService(t)); err != nil {
		t.Error(out)
	}
}

// TestRendered compares what each set of values renders to with a golden file.
func TestRendered(t *testing.T) {
	service := exampleService(t)
	for name, values := range map[string]string{
		"service-native": "",
		"service-plain":  "token-sidecar.mode=plain",
		"service-full": "token-sidecar.redis.url=rediss://redis:6379/0,token-sidecar.redis.existingSecret=redis,token-sidecar.callerToken.existingSecret=caller," +
			"token-sidecar.encryptionKeys.existingSecret=keys,token-sidecar.settings.REFRESH_AHEAD=20m,token-sidecar.settings.UPSTREAM_MAX_ATTEMPTS=2," +
			"token-sidecar.humanapi.product=hip,token-sidecar.ports.token=9080,token-sidecar.ports.admin=9081," +
			"token-sidecar.image.digest=sha256:" + strings.Repeat("0", 64),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := helm(t, "template", "demo", service, "--namespace", "demo", "--set", values)
			if err != nil {
				t.Fatal(out)
			}
			golden(t, name, out)
		})
	}
	for name, values := range map[string]string{
		"chart":               "",
		"chart-secret":        "humanapi.existingSecret=,humanapi.clientSecret=s3cr3t",
		"chart-network":       "networkPolicy.enabled=true,networkPolicy.from[0].namespaceSelector.matchLabels.name=monitoring",
		"chart-observability": "podMonitor.enabled=true,podMonitor.labels.release=prometheus,prometheusRule.enabled=true,dashboard.enabled=true",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := helm(t, "template", "demo", "token-sidecar", "--namespace", "demo", "--set", "humanapi.clientId=a,humanapi.existingSecret=b,"+values)
			if err != nil {
				t.Fatal(out)
			}
			golden(t, name, out)
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s is not what is rendered (%v); go test ./charts -args -update writes it anew:\n%s", path, err, got)
	}
}

// TestWrongValues: each is refused with a sentence that names the value.
func TestWrongValues(t *testing.T) {
	service := exampleService(t)
	for values, sentence := range map[string]string{
		"humanapi.clientId=":                     "humanapi.clientId is missing",
		"humanapi.existingSecret=":               "humanapi.existingSecret is missing",
		"humanapi.clientSecret=x":                "keep one of them",
		"mode=sidecar":                           "mode",
		"humanapi.product=other":                 "product",
		"humanapi.authUrl=http://auth.example":   "authUrl",
		"humanapi.clientID=a":                    "clientID",
		"redis.url=redis://:password@redis:6379": "url",
		"redis.mode=ring":                        "mode",
		"ports.token=80":                         "token",
		"settings.LISTEN_ADDR=0.0.0.0:8080":      "LISTEN_ADDR",
		"settings.refresh_ahead=1m":              "refresh_ahead",
		"image.digest=latest":                    "digest",
		"replicas=2":                             "replicas",
	} {
		t.Run(values, func(t *testing.T) {
			out, err := helm(t, "template", "demo", service, "--set", "token-sidecar."+values)
			if err == nil || !strings.Contains(out, sentence) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// TestInjectionNeedsTheCluster: it is rendered for what the cluster offers, and says so where that is not enough.
func TestInjectionNeedsTheCluster(t *testing.T) {
	render := func(more ...string) (string, error) {
		return helm(t, append([]string{
			"template", "demo", "token-sidecar", "--namespace", "demo", "--set",
			"humanapi.clientId=a,humanapi.existingSecret=b,injection.enabled=true",
		}, more...)...)
	}
	if out, err := render(); err == nil || !strings.Contains(out, "no MutatingAdmissionPolicy") {
		t.Errorf("%v: %s", err, out)
	}
	for _, version := range []string{"v1", "v1beta1"} {
		out, err := render("--api-versions", "admissionregistration.k8s.io/"+version+"/MutatingAdmissionPolicy")
		if err != nil {
			t.Fatal(out)
		}
		golden(t, "injection-"+version, out)
	}
	if out, err := render("--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy", "--set", "mode=plain"); err == nil || !strings.Contains(out, "needs mode native") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestNativeSidecarsNeedANewerCluster(t *testing.T) {
	service := exampleService(t)
	out, err := exec.CommandContext(t.Context(), "helm", "template", "demo", service, "--kube-version", "1.28.0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "set mode to plain") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = exec.CommandContext(t.Context(), "helm", "template", "demo", service, "--kube-version", "1.28.0", "--set", "token-sidecar.mode=plain").CombinedOutput()
	if err != nil {
		t.Errorf("%s", out)
	}
}

// TestSchemas: what is rendered passes the published schemas of Kubernetes. Kinds that Kubernetes does not bring, and those that
// are newer than the schemas, are left to the test on a real API server.
func TestSchemas(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	dir, known := t.TempDir(), 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(content), "\n---\n") {
			if strings.Contains(document, "\napiVersion: monitoring.coreos.com/") || strings.Contains(document, "\nkind: MutatingAdmissionPolicy") {
				continue
			}
			known++
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(known, "-", filepath.Base(file))), []byte(document), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), "kubectl-validate", "--version", "1.30", dir).CombinedOutput()
	if err != nil || strings.Count(string(out), "OK") != known {
		t.Errorf("%v, %d documents: %s", err, known, out)
	}
}

// TestReadme: the chart's README tells of its values.
func TestReadme(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "token-sidecar")
	if err := os.CopyFS(dir, os.DirFS("token-sidecar")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "helm-docs", "--chart-search-root", dir).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	want, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile("token-sidecar/README.md"); string(got) != string(want) {
		t.Error("token-sidecar/README.md is not what values.yaml says; make chart-readme writes it anew")
	}
	if strings.Contains(string(want), "|  |") {
		t.Error("a value has no description")
	}
}
