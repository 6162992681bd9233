package app

import (
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"token-sidecar/cache"
	"token-sidecar/internal/admin"
	"token-sidecar/internal/audit"
	"token-sidecar/internal/health"
	"token-sidecar/internal/settings"
	"token-sidecar/proxy"
	"token-sidecar/upstream"
)

// status collects what ADMIN_ADDR shows about the parts.
type status struct {
	settings settings.Settings
	handler  *proxy.Handler
	source   *upstream.Client
	tokens   *cache.Cache
	trail    *audit.Trail // nil: no audit log is configured
	history  *admin.History
	watcher  *health.Watcher
	where    admin.Where
	begun    time.Time
	started  atomic.Bool
	leaving  atomic.Bool // whether SHUTDOWN_DELAY has begun
}

func newStatus(s settings.Settings, p *Parts, o Options) *status {
	v := &status{
		settings: s, handler: p.Handler, source: p.Source, tokens: p.Tokens, trail: p.Audit,
		where: whereIn(o.Environ), history: admin.NewHistory(p.Handler.Outcomes), begun: time.Now(),
	}
	v.watcher = health.NewWatcher(v.conditions, o.Log)
	if o.Registerer != nil {
		o.Registerer.MustRegister(health.NewCollector(v.watcher))
	}
	return v
}

// whereIn returns which sidecar this is among many.
func whereIn(environ []string) (w admin.Where) {
	w.Host, _ = os.Hostname()
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "POD_NAME":
			w.Pod = value
		case "POD_NAMESPACE":
			w.Namespace = value
		}
	}
	return w
}

func (s *status) ready() bool { return s.started.Load() && !s.leaving.Load() && !s.handler.Draining() }

func (s *status) get() admin.Status {
	cached := s.tokens.State()
	st := admin.Status{
		Where: s.where, Serving: s.ready(), Version: version, Now: time.Now().UTC(),
		Started: s.begun.UTC().Truncate(time.Second), Fingerprint: s.settings.Fingerprint(),
		Conditions: s.watcher.Conditions(), Events: s.watcher.Events(),
		Tokens: cached.Tokens, Requests: s.handler.Outcomes(), History: s.history.Minutes(), Failures: []admin.Failure{},
	}
	for _, band := range cached.Left {
		st.TokensLeft = append(st.TokensLeft, admin.Count{Name: band.Name, Count: band.Tokens})
	}
	for _, f := range s.handler.Failures() {
		st.Failures = append(st.Failures, admin.Failure{Code: f.Code, Count: f.Count, Last: f.Last.UTC()})
	}
	for _, setting := range s.settings.List(nil) {
		st.Settings = append(st.Settings, admin.Setting{Name: setting.Name, Value: setting.Value})
	}
	return st
}

// newBuildInfo is a metric for the running version and its settings.
func newBuildInfo(s settings.Settings) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "token_sidecar_build_info",
		Help:        "Always 1. The labels are the version, the commit, and a fingerprint of the settings without secrets.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit, "settings": s.Fingerprint()},
	})
	info.Set(1)
	return info
}
