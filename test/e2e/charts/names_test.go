package charts

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/downloader"
	"helm.sh/helm/v4/pkg/getter"
)

// rebuild copies a chart's dependencies into its folder charts, as helm dependency update does.
func rebuild(t *testing.T, chart string) {
	t.Helper()
	m := downloader.Manager{Out: io.Discard, ChartPath: chart, Getters: getter.All(cli.New()), SkipUpdate: true}
	if err := m.Update(); err != nil {
		t.Fatal(err)
	}
}

// A layout is a way to include the sidecar in charts: files by their names, and the charts in build order.
type layout struct {
	files  map[string]string
	build  []string
	values []string
}

const deployment = `apiVersion: v1
kind: Pod
metadata: {name: {{ .Chart.Name }}}
spec:
  containers: [{name: app, image: app}]
  initContainers:
    {{- include "token-sidecar.container" . | nindent 4 }}
  volumes:
    {{- include "token-sidecar.volumes" . | nindent 4 }}
`

func chartYAML(name, kind string, dependencies ...string) string {
	out := "apiVersion: v2\nname: " + name + "\nversion: 0.1.0\nappVersion: other\ntype: " + kind + "\n"
	if len(dependencies) > 0 {
		out += "dependencies:\n"
	}
	for _, dependency := range dependencies {
		chart, alias, _ := strings.Cut(dependency, " as ")
		out += "  - {name: " + chart + ", version: 0.1.0, repository: 'file://../" + chart + "', alias: '" + alias +
			"', condition: '" + chart + ".enabled'}\n"
	}
	return strings.ReplaceAll(out, ", alias: ''", "")
}

const secretOf = ".humanapi.clientId=a,%.humanapi.clientSecret=s,%.image.repository=r"

func valuesAt(path string) string { return path + strings.ReplaceAll(secretOf, "%", path) }

// TestWhereverTheChartIs: under an alias, twice, behind a library chart, and for several services in one umbrella
// chart, each pod gets the Secret of its own copy of the chart, and no two objects have the same name.
func TestWhereverTheChartIs(t *testing.T) {
	twice := strings.ReplaceAll(strings.ReplaceAll(deployment, `container" .`, `container" (list . "ALIAS")`),
		`volumes" .`, `volumes" (list . "ALIAS")`)
	for name, c := range map[string]struct {
		layout
		secrets []string
	}{
		"dependency": {layout{
			map[string]string{
				"svc/Chart.yaml":         chartYAML("svc", "application", "token-sidecar"),
				"svc/templates/pod.yaml": deployment,
			},
			[]string{"svc"},
			[]string{valuesAt("token-sidecar")},
		}, []string{"demo-token-sidecar"}},
		"alias": {layout{
			map[string]string{
				"svc/Chart.yaml":         chartYAML("svc", "application", "token-sidecar as tokens"),
				"svc/templates/pod.yaml": deployment,
			},
			[]string{"svc"},
			[]string{valuesAt("tokens")},
		}, []string{"demo-tokens"}},
		"two aliases": {layout{
			map[string]string{
				"svc/Chart.yaml":         chartYAML("svc", "application", "token-sidecar as patients", "token-sidecar as admins"),
				"svc/templates/pod.yaml": strings.ReplaceAll(twice, "ALIAS", "patients"),
				"svc/templates/more.yaml": strings.ReplaceAll(strings.ReplaceAll(twice, "ALIAS", "admins"), "{{ .Chart.Name }}",
					"more"),
			},
			[]string{"svc"},
			[]string{valuesAt("patients"), valuesAt("admins")},
		}, []string{"demo-patients", "demo-admins"}},
		"library": {layout{
			map[string]string{
				"lib/Chart.yaml":         chartYAML("lib", "library", "token-sidecar"),
				"lib/templates/_pod.tpl": `{{ define "lib.pod" }}` + deployment + `{{ end }}`,
				"svc/Chart.yaml":         chartYAML("svc", "application", "lib"),
				"svc/templates/pod.yaml": `{{ include "lib.pod" . }}`,
			},
			[]string{"lib", "svc"},
			[]string{valuesAt("lib.token-sidecar")},
		}, []string{"demo-lib-token-sidecar"}},
		"umbrella": {
			layout{
				map[string]string{
					"one/Chart.yaml": chartYAML("one", "application", "token-sidecar"), "one/templates/pod.yaml": deployment,
					"two/Chart.yaml": chartYAML("two", "application", "token-sidecar"), "two/templates/pod.yaml": deployment,
					"all/Chart.yaml": chartYAML("all", "application", "one", "two"),
				},
				[]string{"one", "two", "all"},
				[]string{valuesAt("one.token-sidecar"), valuesAt("two.token-sidecar")},
			},
			[]string{"demo-one-token-sidecar", "demo-two-token-sidecar"},
		},
		"names given": {layout{
			map[string]string{
				"svc/Chart.yaml":         chartYAML("svc", "application", "token-sidecar"),
				"svc/templates/pod.yaml": deployment,
			},
			[]string{"svc"},
			[]string{valuesAt("token-sidecar"), "token-sidecar.fullnameOverride=mine"},
		}, []string{"mine"}},
		"last part given": {layout{
			map[string]string{
				"svc/Chart.yaml":         chartYAML("svc", "application", "token-sidecar"),
				"svc/templates/pod.yaml": deployment,
			},
			[]string{"svc"},
			[]string{valuesAt("token-sidecar"), "token-sidecar.nameOverride=mine"},
		}, []string{"demo-mine"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := c.render(t)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(c.secrets)
			var made, used []string
			for _, match := range regexp.MustCompile(`kind: Secret\nmetadata:\n  name: (\S+)\n`).FindAllStringSubmatch(out, -1) {
				made = append(made, match[1])
			}
			for _, match := range regexp.MustCompile(`path: client-secret\n *name: (\S+)\n`).FindAllStringSubmatch(out, -1) {
				used = append(used, match[1])
			}
			slices.Sort(made)
			slices.Sort(used)
			used = slices.Compact(used)
			if !slices.Equal(made, c.secrets) || !slices.Equal(used, c.secrets) {
				t.Errorf("Secrets %v are made, %v used, want %v:\n%s", made, used, c.secrets, out)
			}
			for kind, names := range namesOf(out) {
				if slices.Sort(names); len(slices.Compact(slices.Clone(names))) != len(names) {
					t.Errorf("%s: a name is there twice: %v", kind, names)
				}
			}
			if !strings.Contains(out, "r:0.1.0") {
				t.Error("the image has another tag than the chart's version")
			}
		})
	}
}

// TestWhichSidecar: if it is unclear which sidecar is meant, rendering fails with a message.
func TestWhichSidecar(t *testing.T) {
	for sentence, c := range map[string]layout{
		`svc depends on it more than once; say which one is meant, as in: include "token-sidecar.container" (list . "a")`: {
			files: map[string]string{"svc/Chart.yaml": chartYAML("svc", "application", "token-sidecar as a",
				"token-sidecar as b")}, build: []string{"svc"},
		},
		"chart two has no dependency token-sidecar, or it is switched off; add it to dependencies in Chart.yaml": {
			files: map[string]string{
				"svc/Chart.yaml": chartYAML("svc", "application", "token-sidecar"), "two/Chart.yaml": chartYAML("two",
					"application"),
				"two/templates/pod.yaml": deployment, "all/Chart.yaml": chartYAML("all", "application", "svc", "two"),
			},
			build: []string{"svc", "all"}, values: []string{valuesAt("svc.token-sidecar")},
		},
	} {
		c.files["svc/templates/pod.yaml"] = deployment
		if _, err := c.render(t); err == nil || !strings.Contains(err.Error(), sentence) {
			t.Error(err)
		}
	}
}

func namesOf(manifests string) map[string][]string {
	names := map[string][]string{}
	objects := regexp.MustCompile(`(?m)^kind: (\w+)\nmetadata:\s+\{?name: ([^\s}]+)`)
	for _, match := range objects.FindAllStringSubmatch(manifests, -1) {
		names[match[1]] = append(names[match[1]], match[2])
	}
	return names
}

// render builds the charts and renders the last of them.
func (l layout) render(t *testing.T) (string, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "token-sidecar"), os.DirFS(sidecar)); err != nil {
		t.Fatal(err)
	}
	for name, content := range l.files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, chart := range l.build {
		rebuild(t, filepath.Join(dir, chart))
	}
	return Render("demo", filepath.Join(dir, l.build[len(l.build)-1]), Rendering{Values: l.values})
}
