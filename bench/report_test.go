package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// By default everything is run, and little of it: that it works is what the tests look at. make bench asks for more.
var (
	recordTo = flag.String("record", "", "document whose tables take what was seen; its plots are written beside it")
	rounds   = flag.Int("rounds", 1, "how often each is measured, taking turns")
	length   = flag.Duration("length", 50*time.Millisecond, "how long each load lasts")
	scale    = flag.Int("scale", 100, "by what numbers of users and callers are divided")
)

// scaled is n of the full benchmark in this run.
func scaled(n int) int { return max(2, n / *scale) }

// A goal is a line of the table of goals.
type goal struct {
	name string
	// what is compared, and with what.
	what, against string
	// limit is the least, or with atMost the most, that was aimed at; 0: it is told for comparison.
	limit  float64
	atMost bool
	unit   string
	seen   []float64
}

// add takes what was seen in one round.
func (g *goal) add(value float64) { g.seen = append(g.seen, value) }

// record writes the median, and the least and most.
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

// median of values, which it sorts.
func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
