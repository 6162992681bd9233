package e2e

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v2"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// recorded has a file for each recorded run, for promtool: what Prometheus scraped, and the alerts that fired.
const recorded = "test/e2e/testdata/alerts/"

// A ruleFile is the tested part of the alert rules.
type ruleFile struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr string
			Labels      struct{ Severity string }
			Annotations struct {
				Summary, Description string
				Runbook              string `yaml:"runbook_url"`
			}
		}
	}
}

// TestAlerts: each alert fires in its situation and in no other recorded one, and links to its section of the runbook.
func TestAlerts(t *testing.T) {
	testbed.Needs(t, "promtool")
	promtool := func(args ...string) {
		if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %s", args, out)
		}
	}
	promtool("check", "rules", observability+"alerts.yaml")
	runs, err := filepath.Glob(recorded + "*.yaml")
	if err != nil || len(runs) < len(faults()) {
		t.Fatalf("%d runs are recorded: %v", len(runs), err)
	}
	runs = append(runs, observability+"alerts_test.yaml")
	promtool(append([]string{"test", "rules"}, runs...)...)
	tests := ""
	for _, run := range runs {
		tests += testbed.ReadFile(t, run)
	}
	var rules ruleFile
	if err := yaml.Unmarshal([]byte(testbed.ReadFile(t, observability+"alerts.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules.Groups[0].Rules {
		if !strings.Contains(tests, `alertname="`+rule.Alert+`"`) && !strings.Contains(tests, "alertname: "+rule.Alert+"\n") {
			t.Errorf("%s never fires in a test", rule.Alert)
		}
		page, anchor, _ := strings.Cut(rule.Annotations.Runbook, "#")
		if page != runbook || anchor != strings.ToLower(rule.Alert) || !hasSection(t, anchor) {
			t.Errorf("%s leads to %s, which is no section", rule.Alert, rule.Annotations.Runbook)
		}
		if !strings.Contains(rule.Annotations.Summary, "$labels.namespace") || rule.Labels.Severity == "" {
			t.Errorf("%s does not tell where, or how bad", rule.Alert)
		}
	}
	for _, f := range faults() {
		if !strings.Contains(testbed.ReadFile(t, "docs/runbook.md"), "(images/"+f.name+".png)") {
			t.Errorf("the runbook has no picture of %s", f.name)
		}
	}
	for _, section := range strings.Split(testbed.ReadFile(t, "docs/runbook.md"), "\n## ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		if !strings.HasPrefix(name, "TokenSidecar") {
			continue
		}
		for _, part := range []string{"**Callers**: ", "**Look at**: ", "**Do**: "} {
			if !strings.Contains(text, part) {
				t.Errorf("the runbook's section %s has no %s", name, part)
			}
		}
		if !strings.Contains(testbed.ReadFile(t, observability+"alerts.yaml"), "alert: "+name+"\n") {
			t.Errorf("there is no alert %s", name)
		}
	}
}

// lasting are runs for alerts only: what is done to the sidecar continues while the run is recorded.
func lasting() []fault {
	flap := 0
	return []fault{
		{name: "well", inject: func(*scene) {}},
		{name: "breaker-flaps", environ: []string{"BREAKER_OPEN_FOR=5s"}, inject: func(s *scene) {
			flap++
			s.auth.Set([]sandbox.Mood{{}, {Status: 500}}[flap/20%2])
		}},
		{name: "fleet-limit", environ: []string{"UPSTREAM_CALLS_PER_MINUTE=20"}, inject: func(*scene) {}},
		{name: "sidecar-gone", inject: func(s *scene) { s.Kill() }},
		{name: "forgets-waiting", inject: func(s *scene) {
			s.redis.Client().Do(s.t.Context(), "REPLICAOF", "127.0.0.1", "1")
			s.Do("DELETE", "client_user_id=policy-4711-1")
		}},
		{name: "unreadable-values", environ: []string{"MEMORY_CACHE_TTL=1s"}, inject: func(s *scene) {
			client := s.redis.Client()
			for _, key := range client.Keys(s.t.Context(), "token-sidecar:v2:*").Val() {
				if value := client.Get(s.t.Context(), key).Val(); len(value) > 200 {
					client.SetRange(s.t.Context(), key, int64(len(value)-4), "xxxx")
				}
			}
		}},
	}
}

// TestRecordAlerts records the runs that TestAlerts replays; it takes ten minutes.
func TestRecordAlerts(t *testing.T) {
	if *record != "alerts" {
		t.Skip("it writes testdata, and takes ten minutes; run go test -count 1 -timeout 0 -run TestRecordAlerts . -args " +
			"-record alerts")
	}
	const well, ill, step = time.Minute, 8 * time.Minute, 15 * time.Second
	var scenes []*scene
	targets := map[string]string{}
	all := append(faults(), lasting()...)
	repeated := len(faults()) // the first one whose inject is called repeatedly
	for _, f := range all {
		s := newScene(t, f)
		scenes = append(scenes, s)
		targets[f.name] = s.Admin
	}
	for _, s := range scenes {
		s.AwaitReady()
	}
	prometheus := startPrometheus(t, targets, step)
	began := time.Now()
	var driving sync.WaitGroup
	for i, s := range scenes {
		driving.Go(func() {
			injected := false
			for range time.Tick(2 * time.Second) {
				passed := time.Since(began)
				if passed > well+ill {
					return
				}
				if passed > well && s.fault.inject != nil && (!injected || i >= repeated) {
					injected = true
					s.fault.inject(s)
				}
				if passed > well || s.fault.inject != nil {
					s.drive()
				}
			}
		})
	}
	driving.Wait()
	firing, err := prometheus.alerts()
	if err != nil {
		t.Fatal(err)
	}
	end := began.Add(well + ill).Truncate(step)
	if err := os.MkdirAll(recorded, 0o750); err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		prometheus.write(t, f.name, end.Add(-(well + ill - step)), end, step, firing)
	}
}

// write writes Prometheus' data about the run to its file.
func (p *promServer) write(t *testing.T, name string, from, to time.Time, step time.Duration, firing []alert) {
	t.Helper()
	metrics := regexp.MustCompile(`\btoken_sidecar_\w+|\bup\b`).FindAllString(testbed.ReadFile(t, observability+"alerts.yaml"), -1)
	slices.Sort(metrics)
	query := fmt.Sprintf(`{__name__=~"%s",namespace=%q}`, strings.Join(slices.Compact(metrics), "|"), name)
	var data struct {
		Result []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	if err := p.get("query_range", url.Values{
		"query": {query}, "start": {fmt.Sprint(from.Unix())}, "end": {fmt.Sprint(to.Unix())}, "step": {fmt.Sprint(step.Seconds())},
	}, &data); err != nil {
		t.Fatal(err)
	}
	out := "# Written by TestRecordAlerts.\nrule_files: [../../../../" + observability + "alerts.yaml]\n" +
		"evaluation_interval: 15s\ntests:\n  - name: " + name + "\n    interval: 15s\n    input_series:\n"
	var lines []string
	for _, series := range data.Result {
		at := map[int64]string{}
		for _, value := range series.Values {
			seconds, _ := value[0].(float64)
			at[int64(seconds)], _ = value[1].(string)
		}
		lines = append(lines, fmt.Sprintf("      - {series: '%s', values: '%s'}\n", selector(series.Metric), values(at, from, to, step)))
	}
	slices.Sort(lines)
	out += strings.Join(lines, "") + "    promql_expr_test:\n"
	for _, test := range []struct {
		after time.Duration
		fires bool
	}{{45 * time.Second, false}, {to.Sub(from), true}} {
		out += fmt.Sprintf("      - expr: ALERTS{alertstate=\"firing\"}\n        eval_time: %s\n        exp_samples:\n", test.after)
		for _, a := range firing {
			if test.fires && a.State == "firing" && a.Labels["namespace"] == name {
				a.Labels["__name__"], a.Labels["alertstate"] = "ALERTS", "firing"
				out += fmt.Sprintf("          - {labels: '%s', value: 1}\n", selector(a.Labels))
			}
		}
	}
	if err := os.WriteFile(recorded+name+".yaml", []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
}

// selector returns a series in the notation of promtool.
func selector(labels map[string]string) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if name != "__name__" && name != "instance" { // these differ from run to run
			pairs = append(pairs, fmt.Sprintf("%s=%q", name, labels[name]))
		}
	}
	return labels["__name__"] + "{" + strings.Join(pairs, ",") + "}"
}

// values formats a series for promtool: repeated values once, with their number.
func values(at map[int64]string, from, to time.Time, step time.Duration) string {
	var all []string
	there := false
	for now := from; !now.After(to); now = now.Add(step) {
		value, ok := at[now.Unix()]
		switch {
		case ok:
		case there:
			value = "stale"
		default:
			value = "_"
		}
		there = ok
		if value != "_" && value != "stale" && len(all) > 0 && strings.HasPrefix(all[len(all)-1], value+"x") {
			var n int
			_, _ = fmt.Sscanf(all[len(all)-1], value+"x%d", &n)
			all[len(all)-1] = fmt.Sprintf("%sx%d", value, n+1)
			continue
		}
		if value != "_" && value != "stale" {
			value += "x0"
		}
		all = append(all, value)
	}
	return strings.Join(all, " ")
}
