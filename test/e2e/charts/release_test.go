//go:build cluster

package charts

import (
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"
)

// A release is the release of a chart in a namespace of the cluster.
type release struct {
	t               *testing.T
	config          string
	name, namespace string
	warnings        strings.Builder // warnings from the API server
}

func (c *cluster) release(name, namespace string) *release {
	return &release{t: c.t, config: c.config, name: name, namespace: namespace}
}

// connect returns the configuration for an action. A new one is made for each, as Helm's command does.
func (r *release) connect() *action.Configuration {
	r.t.Helper()
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Namespace = &r.config, &r.namespace
	flags.WrapConfigFn = func(config *rest.Config) *rest.Config {
		config.WarningHandler = rest.NewWarningWriter(&r.warnings, rest.WarningWriterOptions{})
		return config
	}
	config := action.NewConfiguration()
	if err := config.Init(flags, r.namespace, ""); err != nil {
		r.t.Fatal(err)
	}
	return config
}

func (r *release) install(chart string, values ...string) {
	r.t.Helper()
	install := action.NewInstall(r.connect())
	install.ReleaseName, install.Namespace = r.name, r.namespace
	install.WaitStrategy, install.Timeout = kube.HookOnlyStrategy, time.Minute
	loaded, vals, err := load(chart, values)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := install.RunWithContext(r.t.Context(), loaded, vals); err != nil {
		r.t.Fatalf("install %s: %v", r.name, err)
	}
}

func (r *release) upgrade(chart string, values ...string) {
	r.t.Helper()
	upgrade := action.NewUpgrade(r.connect())
	upgrade.Namespace, upgrade.WaitStrategy, upgrade.Timeout = r.namespace, kube.HookOnlyStrategy, time.Minute
	loaded, vals, err := load(chart, values)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := upgrade.RunWithContext(r.t.Context(), r.name, loaded, vals); err != nil {
		r.t.Fatalf("upgrade %s: %v", r.name, err)
	}
}

func (r *release) rollback(revision int) {
	r.t.Helper()
	rollback := action.NewRollback(r.connect())
	rollback.Version, rollback.WaitStrategy, rollback.Timeout = revision, kube.HookOnlyStrategy, time.Minute
	if err := rollback.Run(r.name); err != nil {
		r.t.Fatalf("rollback %s: %v", r.name, err)
	}
}

func (r *release) uninstall() {
	r.t.Helper()
	uninstall := action.NewUninstall(r.connect())
	uninstall.WaitStrategy, uninstall.Timeout = kube.HookOnlyStrategy, time.Minute
	if _, err := uninstall.Run(r.name); err != nil {
		r.t.Fatalf("uninstall %s: %v", r.name, err)
	}
}
