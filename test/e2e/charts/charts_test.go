package charts

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/norwoodj/helm-docs/pkg/document"
	helmdocs "github.com/norwoodj/helm-docs/pkg/helm"
	"github.com/spf13/viper"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"token-sidecar/internal/testbed"
)

var update = flag.Bool("update", false, "write the golden files and the chart's README anew")

// folder contains the charts.
const folder = "../../../charts"

// sidecar is the path of the chart.
var sidecar = filepath.Join(folder, "token-sidecar")

// exampleService returns a copy of the example with the chart as its dependency.
func exampleService(t *testing.T) string {
	t.Helper()
	service, err := ExampleService(folder, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return service
}

func TestLint(t *testing.T) {
	if err := Lint(sidecar, required); err != nil {
		t.Error(err)
	}
	if err := Lint(exampleService(t)); err != nil {
		t.Error(err)
	}
}

// TestRendered compares the rendered chart with a golden file, for each set of values.
func TestRendered(t *testing.T) {
	service := exampleService(t)
	for name, values := range map[string]string{
		"service-native": "",
		"service-plain":  "token-sidecar.mode=plain",
		"service-shared": "token-sidecar.socket=true,token-sidecar.callerToken.generate=true",
		"service-volumes": "token-sidecar.humanapi.existingSecret=," +
			"token-sidecar.humanapi.csi.driver=secrets-store.csi.k8s.io,token-sidecar.humanapi.csi.readOnly=true," +
			"token-sidecar.humanapi.ca.configMap=authorities,token-sidecar.redis.url=rediss://redis:6379/0," +
			"token-sidecar.redis.ca.secret=redis," +
			"token-sidecar.audit.log=/var/log/token-sidecar/audit,token-sidecar.audit.existingSecret=audit," +
			"token-sidecar.extraVolumes[0].name=log,token-sidecar.extraVolumes[0].persistentVolumeClaim.claimName=log," +
			"token-sidecar.extraVolumeMounts[0].name=log,token-sidecar.extraVolumeMounts[0].mountPath=/var/log/token-sidecar," +
			"token-sidecar.extraEnv[0].name=HTTPS_PROXY,token-sidecar.extraEnv[0].value=http://proxy:3128," +
			"token-sidecar.global.imagePullSecrets[0]=registry," +
			"token-sidecar.extraEnv[1].name=POD,token-sidecar.extraEnv[1].valueFrom.fieldRef.fieldPath=metadata.name",
		"service-full": "token-sidecar.redis.url=rediss://redis:6379/0,token-sidecar.redis.existingSecret=redis," +
			"token-sidecar.callerToken.existingSecret=caller," +
			"token-sidecar.encryptionKeys.existingSecret=keys,token-sidecar.settings.REFRESH_AHEAD=20m," +
			"token-sidecar.settings.UPSTREAM_MAX_ATTEMPTS=2," +
			"token-sidecar.humanapi.product=hip,token-sidecar.ports.token=9080,token-sidecar.ports.admin=9081," +
			"token-sidecar.image.digest=sha256:" + strings.Repeat("0", 64),
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, name, service, Rendering{Values: []string{values}})
		})
	}
	for name, values := range map[string]string{
		"chart":         "",
		"chart-plain":   "mode=plain",
		"chart-secret":  "humanapi.existingSecret=,humanapi.clientSecret=s3cr3t",
		"chart-network": "networkPolicy.enabled=true,networkPolicy.from[0].namespaceSelector.matchLabels.name=monitoring",
		"chart-observability": "podMonitor.enabled=true,podMonitor.labels.release=prometheus,podMonitor.interval=30s," +
			"prometheusRule.enabled=true," +
			"dashboard.enabled=true,dashboard.namespace=monitoring,dashboard.folder=Human API,commonLabels.team=a",
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, name, sidecar, Rendering{Values: []string{required, values}})
		})
	}
}

// required are the values that the chart cannot do without.
const required = "humanapi.clientId=a,humanapi.existingSecret=b,image.repository=example/token-sidecar"

func golden(t *testing.T, name, chart string, r Rendering) {
	t.Helper()
	r.Namespace = "demo"
	got, err := Render("demo", chart, r)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join("testdata", name+".yaml"), got)
}

// compare fails the test unless the file has the wanted content.
func compare(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is out of date (%v); make golden writes:\n%s", path, err, want)
	}
}

// documents are those in all golden files, except for kinds that are not built into Kubernetes.
func documents(t *testing.T) (all []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(content), "\n---\n") {
			if strings.TrimSpace(document) != "" && !strings.Contains(document, "\napiVersion: monitoring.coreos.com/") {
				all = append(all, document)
			}
		}
	}
	return all
}

// TestTypes: rendered documents are Kubernetes objects, without unknown fields. TestGoldenFilesAreAdmitted lets a real
// API server check the values of the fields.
func TestTypes(t *testing.T) {
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, document := range documents(t) {
		if _, _, err := strict.Decode([]byte(document), nil, nil); err != nil {
			t.Errorf("%v:\n%s", err, document)
		}
	}
}

// TestKubectlValidate: names are right and required fields are there, which [TestTypes] does not look at; that finds
// wrong quantities, and kubectl-validate does not. Its schemas are too old for MutatingAdmissionPolicy.
func TestKubectlValidate(t *testing.T) {
	testbed.Needs(t, "kubectl-validate")
	dir := t.TempDir()
	written := 0
	for i, document := range documents(t) {
		if strings.Contains(document, "\nkind: MutatingAdmissionPolicy") {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".yaml")), []byte(document), 0o600); err != nil {
			t.Fatal(err)
		}
		written++
	}
	cmd := exec.CommandContext(t.Context(), "kubectl-validate", dir)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+os.DevNull) // asks no cluster
	if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), "OK") != written {
		t.Errorf("%d documents: %v\n%s", written, err, out)
	}
}

// TestReadme: the chart's README tells of its values.
func TestReadme(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(sidecar)); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"values-file": "values.yaml", "output-file": "README.md",
		"sort-values-order": document.AlphaNumSortOrder,
	} {
		viper.Set(name, value)
	}
	chart, err := helmdocs.ParseChartInformation(dir, helmdocs.ChartValuesDocumentationParsingConfig{})
	if err != nil {
		t.Fatal(err)
	}
	document.PrintDocumentation(chart, dir, []string{"README.md.gotmpl"}, false, "", "flat-square", nil, true)
	want, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(sidecar, "README.md"), string(want))
	if strings.Contains(string(want), "|  |") {
		t.Error("a value has no description")
	}
}
