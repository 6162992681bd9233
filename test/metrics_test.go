package test

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"token-sidecar/internal/app"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
)

// descriptions is a Registerer that records what is registered.
type descriptions struct{ rows map[string]string }

func (d *descriptions) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	close(descs)
	for desc := range descs {
		m := regexp.MustCompile(`^Desc\{fqName: "(.*)", help: "(.*?)"(?:, unit: "[^"]*")?, constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`).FindStringSubmatch(desc.String())
		if m == nil {
			return fmt.Errorf("not understood: %s", desc)
		}
		labels := strings.FieldsFunc(regexp.MustCompile(`="[^"]*"`).ReplaceAllString(m[3], ""),
			func(r rune) bool { return r == ',' })
		labels = append(labels, strings.FieldsFunc(m[4], func(r rune) bool { return r == ',' })...)
		d.rows[m[1]] = fmt.Sprintf("| `%s` | %s | %s |", m[1], strings.Join(labels, ", "), m[2])
	}
	return nil
}

func (d *descriptions) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := d.Register(c); err != nil {
			panic(err)
		}
	}
}

func (d *descriptions) Unregister(prometheus.Collector) bool { return false }

// TestMetricsDoc: docs/metrics.md lists every metric with its labels and meaning, and no other.
func TestMetricsDoc(t *testing.T) {
	d := &descriptions{rows: map[string]string{}}
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	conf, err := settings.Load(auth.Environ("REDIS_URL="+redis.URL(), "AUDIT_LOG=stdout",
		"AUDIT_KEY_FILE="+testbed.WriteFile(t, "key", auditKey)))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := app.NewParts(conf, app.Options{Registerer: d})
	if err != nil {
		t.Fatal(err)
	}
	defer parts.Close()
	_, closeLog := app.NewLog(io.Discard, conf, d)
	defer closeLog()

	var rows []string
	for name, row := range d.rows {
		if !strings.HasPrefix(name, "token_sidecar_") {
			t.Errorf("%s has not our prefix", name)
		}
		rows = append(rows, row)
	}
	slices.Sort(rows)
	table := strings.Join(rows, "\n")
	doc := testbed.ReadFile(t, "docs/metrics.md")
	if *recordTo == "docs/metrics.md" {
		doc = regexp.MustCompile("(?m)^\\| `token_sidecar_.*\n").ReplaceAllString(doc, "")
		doc = strings.Replace(doc, "| --- | --- | --- |\n", "| --- | --- | --- |\n"+table+"\n", 1)
		if err := os.WriteFile("docs/metrics.md", []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	documented := regexp.MustCompile("(?m)^\\| `token_sidecar_.*$").FindAllString(doc, -1)
	if got := strings.Join(documented, "\n"); got != table {
		t.Errorf("docs/metrics.md does not tell what is registered; go test -run TestMetricsDoc ./test -args -record docs/metrics.md writes:\n%s", table)
	}
}
