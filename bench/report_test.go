package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// By default everything is run, but briefly, to test that it works. make bench runs the full benchmark.
var (
	recordTo = flag.String("record", "", "document in which the tables are updated; its plots are written beside it")
	rounds   = flag.Int("rounds", 1, "how often each is measured, in turns")
	length   = flag.Duration("length", 50*time.Millisecond, "how long each load lasts")
	compare  = flag.String("compare", "", "document with which to compare; a ratio that is a fifth worse fails")
	scale    = flag.Int("scale", 100, "divisor for the numbers of users and callers")
)

// quick reports whether this is a short run that looks for regressions.
func quick() bool { return *compare != "" }

// scaled scales n of the full benchmark to this run.
func scaled(n int) int { return max(2, n / *scale) }

// A goal is a figure in a table of the document.
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

// record writes the row of g.
func (g *goal) record(t *testing.T) {
	t.Helper()
	recordRow(t, g)
}

// recordRow writes the row of several goals for the same thing, under the name of the first one.
func recordRow(t *testing.T, goals ...*goal) {
	t.Helper()
	first := goals[0]
	row := fmt.Sprintf("| %s | %s | %s |", first.what, first.against, first.aim())
	for column, g := range goals {
		if len(g.seen) == 0 {
			t.Fatalf("%s: nothing was measured", g.name)
		}
		row += " " + g.cell() + " |"
		if quick() {
			g.compare(t, first.name, column)
		}
	}
	t.Log(row)
	testbed.Record(t, *recordTo, first.name, row)
}

// aim is the goal in words, empty if the figure is for comparison only.
func (g *goal) aim() string {
	switch {
	case g.limit == 0:
		return ""
	case g.atMost:
		return fmt.Sprintf("at most %.4g%s", g.limit, g.unit)
	default:
		return fmt.Sprintf("at least %.4g%s", g.limit, g.unit)
	}
}

// cell is the median, bold if it misses the goal, with the minimum and the maximum.
func (g *goal) cell() string {
	typical := median(g.seen)
	shown := fmt.Sprintf("%.4g%s", typical, g.unit)
	if g.limit != 0 && (g.atMost && typical > g.limit || !g.atMost && typical < g.limit) {
		shown = "**" + shown + "**"
	}
	return fmt.Sprintf("%s (%.4g to %.4g)", shown, g.seen[0], g.seen[len(g.seen)-1])
}

// compare prints the median beside the one in the document, and fails if it is worse by more than a fifth.
func (g *goal) compare(t *testing.T, row string, column int) {
	t.Helper()
	seen := median(g.seen)
	before, known := recorded(testbed.ReadFile(t, *compare), row, column)
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

// recorded returns a median in the row of that name, and whether there is one.
func recorded(document, name string, column int) (value float64, known bool) {
	row := regexp.MustCompile(`(?m)^\|.*\| <!-- ` + regexp.QuoteMeta(name) + ` -->$`).FindString(document)
	cells := strings.Split(row, " | ")
	if len(cells) < 4+column {
		return 0, false
	}
	value, err := strconv.ParseFloat(regexp.MustCompile(`[0-9.e+-]+`).FindString(cells[3+column]), 64)
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
	document := "text\n| hit | nginx, GET | at least 1 | 1.56 (1.396 to 1.889) | **0.9** (0.8 to 1) | <!-- get -->\n" +
		"| calls |  |  | 10 (10 to 10) | <!-- calls -->\n| start |  | at most 50 ms | 7.2 ms (6 to 8) | <!-- start -->\n" +
		"| new |  |  |  | <!-- new -->\n| big |  |  | 1.2e+04 B (1 to 2) | <!-- big -->\n"
	for name, want := range map[string][]float64{
		"get": {1.56, .9, 0}, "calls": {10, 0}, "start": {7.2}, "big": {12_000}, "new": {0, 0}, "et": {0},
	} {
		for column, want := range want {
			if got, known := recorded(document, name, column); got != want || known != (want != 0) {
				t.Errorf("%s, column %d: %v, %v, want %v", name, column, got, known, want)
			}
		}
	}
	for _, missed := range []struct {
		g    goal
		want string
	}{
		{goal{limit: 1, seen: []float64{3, 1, 2}}, "2 (1 to 3)"},
		{goal{limit: 2.5, seen: []float64{3, 1, 2}}, "**2** (1 to 3)"},
		{goal{limit: 1, atMost: true, unit: " ms", seen: []float64{2}}, "**2 ms** (2 to 2)"},
		{goal{limit: 2, atMost: true, seen: []float64{2}}, "2 (2 to 2)"},
		{goal{atMost: true, seen: []float64{2}}, "2 (2 to 2)"},
	} {
		if got := missed.g.cell(); got != missed.want {
			t.Errorf("%q, want %q", got, missed.want)
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
