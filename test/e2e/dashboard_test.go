package e2e

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	promquery "github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"

	"token-sidecar/internal/testbed"
)

// The dashboard is written here, in a hundred lines, and made into charts/token-sidecar/files/dashboard.json by
//
//	go test -run TestDashboard . -args -record dashboard

const (
	dashboardFile = observability + "dashboard.json"
	runbook       = "https://github.com/token-sidecar/token-sidecar/blob/main/docs/runbook.md"
	window        = "$__rate_interval"
)

// A panel is one drawing: a figure in the first row, or a series over time.
type panel struct {
	title, about, unit string
	// queries have %s in place of labels, and yield series with the names in legends.
	queries, legends []string
	alert            string    // the section of the runbook
	thresholds       []float64 // from which it is yellow, and red
	falling          bool      // less is worse
	stacked          bool
}

const (
	hitRatio = `sum(rate(token_sidecar_requests_total{%s,outcome=~"hit_memory|hit_redis"}[15m])) / sum(rate(token_sidecar_requests_total{%s,outcome=~"hit_memory|hit_redis|miss|collapsed"}[15m]))`
	failing  = `sum(rate(token_sidecar_requests_total{%s,outcome=~"failed|shed"}[5m])) / sum(rate(token_sidecar_requests_total{%s}[5m]))`
)

// figures answer: are callers well served? If not, where is the problem?
func figures() []panel {
	degraded := func(selector string) string {
		return `count(max by (namespace, pod, instance) (token_sidecar_degraded{%s,` + selector + `})) or vector(0)`
	}
	return []panel{
		{
			title: "Callers who get no token", about: "Of the last five minutes. Red: the alert's limit.", unit: "percentunit",
			queries: []string{failing}, alert: "TokenSidecarCallersFail", thresholds: []float64{.001, .01},
		},
		{
			title: "Slowest of a hundred", about: "99th percentile of all requests.", unit: "s",
			queries: []string{`histogram_quantile(0.99, sum by (le) (rate(token_sidecar_request_duration_seconds_bucket{%s}[5m])))`},
			alert:   "TokenSidecarCallersFail", thresholds: []float64{.25, 2},
		},
		{
			title: "Answered from a cache", about: "Of the requests that one could have answered, in 15 minutes.", unit: "percentunit",
			queries: []string{hitRatio}, alert: "TokenSidecarHitRatioFallen", thresholds: []float64{.5, .8}, falling: true,
		},
		{
			title: "Auth service: pods in trouble", about: "Breaker open, secret refused, asked to pause, or calls that fail.", unit: "short",
			queries: []string{degraded(`part="auth"`)}, alert: "TokenSidecarBreakerOpen", thresholds: []float64{1, 2},
		},
		{
			title: "Redis: pods in trouble", about: "Down, read-only or write-only.", unit: "short",
			queries: []string{degraded(`part="redis"`)}, alert: "TokenSidecarRedisLost", thresholds: []float64{1, 2},
		},
		{
			title: "Sidecars", about: "How many Prometheus can reach.", unit: "short",
			queries: []string{`count(token_sidecar_build_info{%s})`}, alert: "TokenSidecarTargetDown", thresholds: []float64{0, 1}, falling: true,
		},
	}
}

// courses show what happened when.
func courses() []panel {
	rate := func(by, metric string) []string {
		return []string{`sum by (` + by + `) (rate(` + metric + `{%s}[` + window + `]))`}
	}
	return []panel{
		{
			title: "What is degraded, and why", about: "Pods by part, state and cause. Empty is good.", unit: "short", stacked: true,
			queries: []string{`count by (part, state, cause) (token_sidecar_degraded{%s})`}, legends: []string{"{{part}} {{state}}: {{cause}}"},
		},
		{
			title: "Requests by outcome", about: "failed and shed are what callers notice.", unit: "reqps", stacked: true,
			queries: rate("outcome", "token_sidecar_requests_total"), legends: []string{"{{outcome}}"}, alert: "TokenSidecarCallersFail",
		},
		{
			title: "Errors by errorCode", about: "What callers were told.", unit: "reqps",
			queries: rate("code", "token_sidecar_errors_total"), legends: []string{"{{code}}"}, alert: "TokenSidecarCallersFail",
		},
		{
			title: "Duration of requests, 99th percentile", about: "By outcome.", unit: "s",
			queries: []string{`histogram_quantile(0.99, sum by (le, outcome) (rate(token_sidecar_request_duration_seconds_bucket{%s}[` + window + `])))`},
			legends: []string{"{{outcome}}"},
		},
		{
			title: "Answered from a cache", about: "Below the red line the alert fires.", unit: "percentunit", thresholds: []float64{0, .5}, falling: true,
			queries: []string{hitRatio}, legends: []string{"share"}, alert: "TokenSidecarHitRatioFallen",
		},
		{
			title: "Calls to the auth service by result", about: "held_back ones did not go out.", unit: "reqps", stacked: true,
			queries: rate("result", "token_sidecar_upstream_calls_total"), legends: []string{"{{result}}"}, alert: "TokenSidecarAuthServiceFailing",
		},
		{
			title: "Attempts at the auth service", about: "How fast it answers. The red line is UPSTREAM_TIMEOUT's default.", unit: "s", thresholds: []float64{1, 5},
			queries: []string{
				`histogram_quantile(0.5, sum by (le) (rate(token_sidecar_upstream_attempt_duration_seconds_bucket{%s}[` + window + `])))`,
				`histogram_quantile(0.99, sum by (le) (rate(token_sidecar_upstream_attempt_duration_seconds_bucket{%s}[` + window + `])))`,
			}, legends: []string{"median", "99th percentile"},
		},
		{
			title: "Circuit breakers", about: "Sidecars whose breaker is not closed.", unit: "short", stacked: true,
			queries: []string{`sum by (path, state) (token_sidecar_breaker_state{%s,state!="closed"})`}, legends: []string{"{{path}} {{state}}"}, alert: "TokenSidecarBreakerOpen",
		},
		{
			title: "Calls that wait", about: "By UPSTREAM_MAX_CONCURRENT, and each second by UPSTREAM_CALLS_PER_MINUTE.", unit: "short",
			queries: []string{`sum(token_sidecar_upstream_waiting{%s})`, `sum(rate(token_sidecar_upstream_rate_waits_total{%s}[` + window + `]))`},
			legends: []string{"concurrent", "fleet limit, per second"}, alert: "TokenSidecarFleetLimitReached",
		},
		{
			title: "Redis can be", about: "Sidecars that can read it, and write it.", unit: "short",
			queries: []string{`sum by (operation) (token_sidecar_redis_usable{%s})`}, legends: []string{"{{operation}}"}, alert: "TokenSidecarRedisLost",
		},
		{
			title: "Steps in Redis, 99th percentile", about: "The red line is REDIS_TIMEOUT's default.", unit: "s", thresholds: []float64{.1, .25},
			queries: []string{`histogram_quantile(0.99, sum by (le, step) (rate(token_sidecar_redis_step_duration_seconds_bucket{%s}[` + window + `])))`},
			legends: []string{"{{step}}"}, alert: "TokenSidecarRedisLost",
		},
		{
			title: "Forgets", about: "Those that Redis is yet to be told of, and those heard of from other sidecars.", unit: "short",
			queries: []string{`sum(token_sidecar_forgets_pending{%s})`, `sum(rate(token_sidecar_forget_news_total{%s}[` + window + `]))`},
			legends: []string{"waiting", "heard of, per second"}, alert: "TokenSidecarForgetsWaiting",
		},
		{
			title: "Renewals by result", about: "Ahead of expiry; nobody waits for them.", unit: "reqps", stacked: true,
			queries: rate("result", "token_sidecar_renewals_total"), legends: []string{"{{result}}"}, alert: "TokenSidecarRenewalsFailing",
		},
		{
			title: "Memory", about: "What tokens and refusals take, and the processes.", unit: "bytes",
			queries: []string{`sum(token_sidecar_memory_bytes{%s})`, `sum(process_resident_memory_bytes{%s})`}, legends: []string{"tokens", "processes"},
		},
		{
			title: "Versions and settings", about: "More than one line: pods differ.", unit: "short", stacked: true,
			queries: []string{`count by (version, settings) (token_sidecar_build_info{%s})`}, legends: []string{"{{version}} {{settings}}"},
		},
	}
}

func (p panel) targets() (targets []*promquery.DataqueryBuilder) {
	const selector = `namespace=~"$namespace",pod=~"$pod"`
	for i, query := range p.queries {
		target := promquery.NewDataqueryBuilder().Expr(strings.ReplaceAll(query, "%s", selector)).RefId(string(rune('A' + i)))
		if p.legends != nil {
			target.LegendFormat(p.legends[i])
		}
		targets = append(targets, target)
	}
	return targets
}

func (p panel) steps() *dashboard.ThresholdsConfigBuilder {
	const good, warn, bad = "green", "orange", "red"
	steps := []dashboard.Threshold{{Color: good}}
	if p.thresholds != nil && p.falling {
		steps = []dashboard.Threshold{{Color: bad}, {Value: &p.thresholds[0], Color: warn}, {Value: &p.thresholds[1], Color: good}}
	} else if p.thresholds != nil {
		steps = append(steps, dashboard.Threshold{Value: &p.thresholds[0], Color: warn}, dashboard.Threshold{Value: &p.thresholds[1], Color: bad})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps)
}

func (p panel) links() []cog.Builder[dashboard.DashboardLink] {
	if p.alert == "" {
		return nil
	}
	return []cog.Builder[dashboard.DashboardLink]{
		dashboard.NewDashboardLinkBuilder("Runbook: " + p.alert).Type(dashboard.DashboardLinkTypeLink).
			Url(runbook + "#" + strings.ToLower(p.alert)).TargetBlank(true),
	}
}

func source() common.DataSourceRef {
	return common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}
}

func (p panel) figure() *stat.PanelBuilder {
	b := stat.NewPanelBuilder().Title(p.title).Description(p.about).Unit(p.unit).Datasource(source()).Span(4).Height(5).
		Thresholds(p.steps()).ColorMode(common.BigValueColorModeBackground).Links(p.links()).NoValue("no data")
	for _, target := range p.targets() {
		b.WithTarget(target)
	}
	return b
}

func (p panel) course() *timeseries.PanelBuilder {
	b := timeseries.NewPanelBuilder().Title(p.title).Description(p.about).Unit(p.unit).
		Datasource(source()).Span(8).Height(8).
		Min(0).Links(p.links())
	if p.thresholds != nil {
		style := common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeLine)
		b.Thresholds(p.steps()).ThresholdsStyle(style)
	}
	if p.stacked {
		b.Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal)).FillOpacity(40)
	}
	for _, target := range p.targets() {
		b.WithTarget(target)
	}
	return b
}

func choice(name, query string) *dashboard.QueryVariableBuilder {
	return dashboard.NewQueryVariableBuilder(name).Query(dashboard.StringOrMap{String: &query}).Datasource(source()).
		Multi(true).IncludeAll(true).AllValue(".*").Refresh(dashboard.VariableRefreshOnTimeRangeChanged)
}

//
//nolint:staticcheck // the newer model is Grafana 13's; this one is read by all in use
func buildDashboard() (dashboard.Dashboard, error) {
	b := dashboard.NewDashboardBuilder("token-sidecar").Uid("token-sidecar").Tags([]string{"token-sidecar"}).Editable().
		Refresh("30s").Time("now-3h", "now").
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Type("prometheus")).
		WithVariable(choice("namespace", "label_values(token_sidecar_build_info, namespace)")).
		WithVariable(choice("pod", `label_values(token_sidecar_build_info{namespace=~"$namespace"}, pod)`)).
		Link(dashboard.NewDashboardLinkBuilder("Runbook").Type(dashboard.DashboardLinkTypeLink).Url(runbook).
			TargetBlank(true)).
		WithRow(dashboard.NewRowBuilder("Are callers fine?"))
	for _, p := range figures() {
		b.WithPanel(p.figure())
	}
	b.WithRow(dashboard.NewRowBuilder("What happened, and where"))
	for _, p := range courses() {
		b.WithPanel(p.course())
	}
	return b.Build()
}

// TestDashboard: the chart's file is up to date, and its links are valid.
func TestDashboard(t *testing.T) {
	built, err := buildDashboard()
	if err != nil {
		t.Fatal(err)
	}
	made, err := json.MarshalIndent(built, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	made = append(made, '\n')
	if *record == "dashboard" {
		if err := os.WriteFile(dashboardFile, made, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if testbed.ReadFile(t, dashboardFile) != string(made) {
		t.Error("the dashboard has changed; write it anew, see the head of this file")
	}
	for _, link := range regexp.MustCompile(`runbook\.md#(\w+)`).FindAllStringSubmatch(string(made), -1) {
		if !hasSection(t, link[1]) {
			t.Errorf("the runbook has no section %s", link[1])
		}
	}
}

// hasSection reports whether the runbook has a section with that anchor.
func hasSection(t *testing.T, anchor string) bool {
	t.Helper()
	heading := regexp.MustCompile(`(?mi)^## ` + regexp.QuoteMeta(anchor) + `$`)
	return heading.MatchString(testbed.ReadFile(t, "docs/runbook.md"))
}
