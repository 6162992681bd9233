package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// By default everything is run, but briefly, to test that it works. make bench runs the full benchmark.
var (
	recordTo = flag.String("record", "", "document whose tables take what was seen; its plots are written beside it")
	rounds   = flag.Int("rounds", 1, "how often each is measured, taking turns")
	length   = flag.Duration("length", 50*time.Millisecond, "how long each load lasts")
	compare  = flag.String("compare", "", "document whose ratios are told beside those seen; one a fifth worse fails")
	scale    = flag.Int("scale", 100, "by what numbers of users and callers are divided")
)

// quick reports whether this is a short run that looks for regressions.
func quick() bool { return *compare != "" }

// scaled scales n of the full benchmark to this run.
func scaled(n int) int { return max(2, n / *scale) }

// A goal is a row of the table of goals.
type goal struct {
	name string
	// what is compared, and with what
	what, against string
	// limit is the minimum, or with atMost the maximum, that was aimed for; 0: shown for comparison only.
	limit  float64
	atMost bool
	unit   string
	seen   []float64
}

// add adds the result of one round.
func (g *goal) add(value float64) { g.seen = append(g.seen, value) }

// record writes the median, the minimum and the maximum.
func (g *goal) record(t *testing.T) {
	t.Helper()
	if len(g.seen) == 0 {
		t.Fatalf("%s: nothing was measured", g.name)
	}
	typical := median(g.seen)
	wants, met := "at least", typical >= g.limit
	if g.atMost {
		wants, met = "at most", typical <= g.limit
	}
	goal, verdict := fmt.Sprintf("%s %.4g%s", wants, g.limit, g.unit), "yes"
	switch {
	case g.limit == 0:
		goal, verdict = "", ""
	case !met:
		verdict = "**no**"
	}
	row := fmt.Sprintf("| %s | %s | %s | %.4g%s (%.4g to %.4g) | %s |", g.what, g.against, goal,
		typical, g.unit, g.seen[0], g.seen[len(g.seen)-1], verdict)
	t.Log(row)
	testbed.Record(t, *recordTo, g.name, row)
	if quick() {
		g.compare(t, typical)
	}
}

// compare prints the results beside those in the document, and fails where they are worse by more than a fifth.
func (g *goal) compare(t *testing.T, seen float64) {
	t.Helper()
	before, known := recorded(testbed.ReadFile(t, *compare), g.name)
	if !known {
		t.Logf("%-24s %.3g, nothing recorded", g.name, seen)
		return
	}
	t.Logf("%-24s %.3g, recorded %.3g", g.name, seen, before)
	if g.limit != 0 && g.worse(seen, before) {
		t.Errorf("%s against %s: %.3g, more than a fifth worse than the recorded %.3g", g.what, g.against, seen, before)
	}
}

// worse reports whether seen is worse than before by more than a fifth.
func (g *goal) worse(seen, before float64) bool {
	if g.atMost {
		return seen*4/5 > before
	}
	return seen < before*4/5
}

// recorded returns the median in the row of that name, and whether there is one.
func recorded(document, name string) (value float64, known bool) {
	row := regexp.MustCompile(`(?m)^\|.*\| ([0-9.e+-]+)[^|]*\|[^|]*\| <!-- ` + regexp.QuoteMeta(name) + ` -->$`).
		FindStringSubmatch(document)
	if row == nil {
		return 0, false
	}
	value, err := strconv.ParseFloat(row[1], 64)
	return value, err == nil
}

// draw writes a plot beside the document.
func draw(t *testing.T, name string, p Plot) {
	t.Helper()
	dir := t.TempDir()
	if *recordTo != "" {
		dir = filepath.Dir(*recordTo)
	}
	if err := os.WriteFile(filepath.Join(dir, name), p.SVG(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// median returns the median of values, which it sorts.
func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// TestRecorded: a written row can be read back, and a result that is a fifth worse is detected.
func TestRecorded(t *testing.T) {
	document := "text\n| hit | nginx, GET | at least 1 | 1.56 (1.396 to 1.889) | yes | <!-- one-get -->\n" +
		"| calls |  |  | 10 (10 to 10) |  | <!-- calls -->\n| start |  | at most 50 ms | 7.2 ms (6 to 8) | yes | <!-- start -->\n" +
		"| new |  |  |  |  | <!-- new -->\n| big |  |  | 1.2e+04 B (1 to 2) |  | <!-- big -->\n"
	for name, want := range map[string]float64{
		"one-get": 1.56, "calls": 10, "start": 7.2, "big": 12_000, "new": 0, "get": 0,
	} {
		if got, known := recorded(document, name); got != want || known != (want != 0) {
			t.Errorf("%s: %v, %v, want %v", name, got, known, want)
		}
	}
	for _, c := range []struct {
		atMost       bool
		seen, before float64
		worse        bool
	}{
		{false, 1.56, 1.56, false},
		{false, 1.25, 1.56, false},
		{false, 1.24, 1.56, true},
		{false, 9, 1.56, false},
		{true, 1.2, 1, false},
		{true, 1.26, 1, true},
		{true, .1, 1, false},
	} {
		if g := (&goal{atMost: c.atMost}); g.worse(c.seen, c.before) != c.worse {
			t.Errorf("%+v", c)
		}
	}
}
