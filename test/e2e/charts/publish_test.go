package charts

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	"helm.sh/helm/v4/pkg/registry"

	"token-sidecar/internal/testbed"
)

// TestPublish pushes the chart to a registry and pulls it again. The pulled chart needs no value for the image, names
// its home page, and can be the dependency of a service.
func TestPublish(t *testing.T) {
	server := httptest.NewServer(ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	folder := strings.Replace(server.URL, "http://", "oci://", 1) + "/charts"
	archive, err := Package(sidecar, t.TempDir(), Publication{
		Image: "registry.example/team/token-sidecar", Version: "1.2.3-4-gabc", Home: "https://git.example/token-sidecar",
	})
	if err != nil {
		t.Fatal(err)
	}
	reference, err := Push(archive, folder, registry.ClientOptPlainHTTP())
	if err != nil || reference != folder+"/token-sidecar:1.2.3-4-gabc" {
		t.Fatalf("%s, %v", reference, err)
	}
	client, err := registry.NewClient(registry.ClientOptPlainHTTP())
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := client.Pull(strings.TrimPrefix(reference, "oci://"))
	if err != nil {
		t.Fatal(err)
	}
	chart := filepath.Join(t.TempDir(), "token-sidecar.tgz")
	if err := os.WriteFile(chart, pulled.Chart.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := Render("demo", chart, Rendering{Values: []string{"humanapi.clientId=a,humanapi.existingSecret=b"}})
	if err != nil || !strings.Contains(out, "image: registry.example/team/token-sidecar:1.2.3-4-gabc\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if home := pulled.Chart.Meta.Home; home != "https://git.example/token-sidecar" ||
		len(pulled.Chart.Meta.Sources) != 1 ||
		len(pulled.Chart.Meta.Keywords) == 0 {
		t.Errorf("%+v", pulled.Chart.Meta)
	}
	if _, err := Package(sidecar, t.TempDir(), Publication{Image: "token-sidecar", Version: "1.2.3"}); err == nil {
		t.Error("an image without a registry was taken")
	}
}

// TestVersionOfRelease: image and chart get the same version, from git's description of the commit, and both accept it.
func TestVersionOfRelease(t *testing.T) {
	makefile := testbed.ReadFile(t, filepath.Join(folder, "../Makefile"))
	if !strings.Contains(makefile, "$(IMAGE):$(RELEASE)") || !strings.Contains(makefile, "-version $(RELEASE)") {
		t.Error("image and chart are pushed with other versions")
	}
	for described, want := range map[string]string{
		"v1.2.3": "1.2.3", "1.2.3": "1.2.3", "v1.2.3-4-gabc1234-dirty": "1.2.3-4-gabc1234-dirty",
		"0123456": "0.0.0-g0123456", "dev": "0.0.0-gdev",
	} {
		out := runMake(t, "-s", "release-version", "VERSION="+described)
		if got := strings.TrimSpace(out); got != want {
			t.Errorf("%s: %q, not %q", described, got, want)
		}
	}
}

func runMake(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", append([]string{
		"-C", filepath.Join(folder, ".."),
		"--no-print-directory",
	}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
