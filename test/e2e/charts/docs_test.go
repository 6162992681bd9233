package charts

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"token-sidecar/internal/testbed"
)

// TestInstallPage: the chart in docs/install.md can be installed as shown, and so can the lines in the README, in the
// surroundings that they need.
func TestInstallPage(t *testing.T) {
	dir := t.TempDir()
	archive, err := Package(sidecar, dir, Publication{Image: "registry.example/team/token-sidecar", Version: "0.1.0"})
	if err != nil {
		t.Fatal(err)
	}
	service, files := filepath.Join(dir, "my-service"), installed(t)
	files["Chart.yaml"] = strings.Replace(files["Chart.yaml"], "oci://registry.example/team/charts", "", 1)
	for name, content := range files {
		path := filepath.Join(service, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(service, "charts"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(archive, filepath.Join(service, "charts", filepath.Base(archive))); err != nil {
		t.Fatal(err)
	}
	out, err := Render("demo", service, Rendering{SkipTests: true})
	if err != nil || !strings.Contains(out, "image: \"registry.example/team/token-sidecar:0.1.0\"") {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Count(out, "- name: token-sidecar\n") != 2 || strings.Contains(out, "\n- name") {
		t.Errorf("wrong depth:\n%s", out)
	}
	for _, page := range []string{filepath.Join(sidecar, "README.md"), filepath.Join(folder, "../README.md")} {
		content := testbed.ReadFile(t, page)
		includes := regexp.MustCompile(`(?m)^( *)\{\{- include "token-sidecar[^|]*\| nindent (\d+)`)
		for _, line := range includes.FindAllStringSubmatch(
			content, -1) {
			if strings.Repeat(" ", len(line[1])) != line[1] || line[2] != map[int]string{8: "8", 6: "6", 4: "4"}[len(line[1])] {
				t.Errorf("%s: %q is at depth %d", page, line[0], len(line[1]))
			}
		}
	}
}

// installed are the files of the chart that docs/install.md shows, by their paths.
func installed(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, block := range regexp.MustCompile("(?s)```yaml\n# (\\S+\\.yaml)\n(.*?)```").FindAllStringSubmatch(
		testbed.ReadFile(t, filepath.Join(folder, "../docs/install.md")), -1) {
		files[block[1]] = block[2]
	}
	if len(files) != 3 {
		t.Fatalf("%d files", len(files))
	}
	return files
}

// TestTemplatesAreNamed: the chart's README names each template that services include.
func TestTemplatesAreNamed(t *testing.T) {
	readme := testbed.ReadFile(t, filepath.Join(sidecar, "README.md"))
	for _, name := range []string{
		"container", "volumes", "appVolumeMounts", "imagePullSecrets", "terminationGracePeriodSeconds",
	} {
		if !strings.Contains(readme, "`token-sidecar."+name+"`") {
			t.Error(name)
		}
	}
}
