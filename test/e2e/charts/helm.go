// Package charts does what the helm command does, with Helm's own library: copy, lint, render and install charts.
package charts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/downloader"
	"helm.sh/helm/v4/pkg/getter"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/strvals"
)

// Kubernetes is the version for which charts are rendered by default.
const Kubernetes = "1.36.0"

// ExampleService copies the charts in folder charts to dir, adds the chart to the example as its dependency, and
// returns the path of the example.
func ExampleService(charts, dir string) (string, error) {
	for _, chart := range []string{"token-sidecar", "example-service"} {
		if err := os.CopyFS(filepath.Join(dir, chart), os.DirFS(filepath.Join(charts, chart))); err != nil {
			return "", err
		}
	}
	service := filepath.Join(dir, "example-service")
	dependencies := downloader.Manager{
		Out: io.Discard, ChartPath: service, Getters: getter.All(cli.New()),
		SkipUpdate: true,
	}
	return service, dependencies.Build()
}

// Lint returns the problems and warnings about a chart with values in the form of --set.
func Lint(chart string, values ...string) error {
	vals, err := parse(values)
	if err != nil {
		return err
	}
	version, err := common.ParseKubeVersion(Kubernetes)
	if err != nil {
		return err
	}
	lint := action.NewLint()
	lint.Strict, lint.KubeVersion = true, version
	return errors.Join(lint.Run([]string{chart}, vals).Errors...)
}

// A Rendering says how [Render] renders.
type Rendering struct {
	// Namespace is the release's. Default: default.
	Namespace string
	// Values are in the form of --set; Tree has further values, as a values file does.
	Values []string
	Tree   map[string]any
	// Kubernetes is the version of the cluster. Default: [Kubernetes].
	Kubernetes string
	// APIs are what the cluster offers beyond the usual ones.
	APIs []string
	// SkipTests leaves the chart's tests out.
	SkipTests bool
}

// Render returns a chart as helm template prints it, for a release of that name.
func Render(name, chart string, r Rendering) (string, error) {
	rel, err := render(name, chart, r)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintln(&out, strings.TrimSpace(rel.Manifest))
	for _, hook := range rel.Hooks {
		if !r.SkipTests || !slices.Contains(hook.Events, releasev1.HookTest) {
			fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", hook.Path, hook.Manifest)
		}
	}
	return out.String(), nil
}

// Notes returns the chart's notes for the user who installs it.
func Notes(name, chart string, r Rendering) (string, error) {
	rel, err := render(name, chart, r)
	if err != nil {
		return "", err
	}
	return rel.Info.Notes, nil
}

func render(name, chart string, r Rendering) (*releasev1.Release, error) {
	if r.Kubernetes == "" {
		r.Kubernetes = Kubernetes
	}
	version, err := common.ParseKubeVersion(r.Kubernetes)
	if err != nil {
		return nil, err
	}
	install := action.NewInstall(action.NewConfiguration())
	install.DryRunStrategy = action.DryRunClient
	install.ReleaseName, install.Namespace = name, r.Namespace
	install.KubeVersion, install.APIVersions = version, r.APIs
	loaded, vals, err := load(chart, r.Values)
	if err != nil {
		return nil, err
	}
	vals = loader.MergeMaps(r.Tree, vals)
	done, err := install.Run(loaded, vals)
	if err != nil {
		return nil, err
	}
	rel, ok := done.(*releasev1.Release)
	if !ok {
		return nil, fmt.Errorf("a release of type %T", done)
	}
	return rel, nil
}

// load reads a chart, and values in the form of --set.
func load(chart string, values []string) (*chartv2.Chart, map[string]any, error) {
	vals, err := parse(values)
	if err != nil {
		return nil, nil, err
	}
	c, err := loader.Load(chart)
	return c, vals, err
}

func parse(values []string) (map[string]any, error) {
	vals := map[string]any{}
	for _, value := range values {
		if err := strvals.ParseInto(value, vals); err != nil {
			return nil, err
		}
	}
	return vals, nil
}
