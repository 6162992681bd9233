package bench

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// A Plot is a chart of lines over a common axis, drawn as SVG.
type Plot struct {
	Title, X, Y string
	// LogX and LogY select logarithmic axes.
	LogX, LogY bool
	Lines      []Line
}

// A Line is a line of a Plot.
type Line struct {
	Name   string
	Points []Point
}

// A Point is a point on a Line.
type Point struct{ X, Y float64 }

const (
	plotWidth, plotHeight                   = 720, 420
	plotLeft, plotRight, plotTop, plotUnder = 70, 20, 50, 90
)

// colours that people with the usual kinds of colour blindness can distinguish; the marks differ too.
var (
	colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f"}
	dashes  = []string{"", "7 4", "2 3", "10 3 2 3", "4 4"}
)

// axis maps values to places.
type axis struct {
	low, high float64 // if logarithmic, powers of ten
	log       bool
	from, to  float64
}

func newAxis(values []float64, log bool, from, to float64) axis {
	a := axis{log: log, from: from, to: to, low: math.Inf(1), high: math.Inf(-1)}
	for _, v := range values {
		v = a.scale(v)
		a.low, a.high = min(a.low, v), max(a.high, v)
	}
	switch {
	case log:
		a.low, a.high = math.Floor(a.low), math.Ceil(a.high)
		if a.low == a.high {
			a.high++
		}
	default:
		a.low = min(a.low, 0)
		step := tickStep(a.high - a.low)
		a.high = math.Ceil(a.high/step) * step
	}
	return a
}

func (a axis) scale(v float64) float64 {
	if a.log {
		return math.Log10(v)
	}
	return v
}

func (a axis) at(v float64) float64 {
	return a.from + (a.scale(v)-a.low)/(a.high-a.low)*(a.to-a.from)
}

func (a axis) ticks() (ticks []float64) {
	if a.log {
		for power := a.low; power <= a.high; power++ {
			ticks = append(ticks, math.Pow(10, power))
		}
		return ticks
	}
	step := tickStep(a.high - a.low)
	for v := a.low; v <= a.high+step/2; v += step {
		ticks = append(ticks, v)
	}
	return ticks
}

// tickStep is a round number that divides span into four to ten parts.
func tickStep(span float64) float64 {
	if span <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(span)))
	for _, factor := range []float64{0.1, 0.2, 0.25, 0.5, 1} {
		if span/(power*factor) <= 8 {
			return power * factor
		}
	}
	return power * 2
}

// SVG draws p.
func (p Plot) SVG() []byte {
	var xs, ys []float64
	for _, line := range p.Lines {
		for _, point := range line.Points {
			xs, ys = append(xs, point.X), append(ys, point.Y)
		}
	}
	x := newAxis(xs, p.LogX, plotLeft, plotWidth-plotRight)
	y := newAxis(ys, p.LogY, plotHeight-plotUnder, plotTop)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13" role="img">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
		html.EscapeString(p.Title))
	text := func(x, y float64, anchor, content string) {
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
			html.EscapeString(content))
	}
	text(plotLeft, 25, "start", p.Title)
	text((plotLeft+plotWidth-plotRight)/2, plotHeight-plotUnder+40, "middle", p.X)
	fmt.Fprintf(&b, "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
		(plotTop+plotHeight-plotUnder)/2, html.EscapeString(p.Y))
	for _, tick := range x.ticks() {
		fmt.Fprintf(&b, "<path d=\"M%.1f %dV%d\" stroke=\"#e4e4e4\"/>\n", x.at(tick), plotTop, plotHeight-plotUnder)
		text(x.at(tick), plotHeight-plotUnder+18, "middle", tickText(tick))
	}
	for _, tick := range y.ticks() {
		fmt.Fprintf(&b, "<path d=\"M%d %.1fH%d\" stroke=\"#e4e4e4\"/>\n", plotLeft, y.at(tick), plotWidth-plotRight)
		text(plotLeft-8, y.at(tick)+4, "end", tickText(tick))
	}
	for i, line := range p.Lines {
		colour, dash := colours[i%len(colours)], dashes[i%len(dashes)]
		var path bytes.Buffer
		for j, point := range line.Points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(j, 1)], x.at(point.X), y.at(point.Y))
			fmt.Fprintf(&b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x.at(point.X), y.at(point.Y), colour)
		}
		fmt.Fprintf(&b, "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\"/>\n",
			path.String(), colour, dash)
		at := plotLeft + float64(i)*(plotWidth-plotLeft)/float64(max(3, len(p.Lines)))
		fmt.Fprintf(&b, "<path d=\"M%.1f %dh28\" stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\"/>\n", at,
			plotHeight-20, colour, dash)
		text(at+34, plotHeight-16, "start", line.Name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func tickText(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + "M"
	case v >= 1e3:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + "k"
	default:
		return strconv.FormatFloat(math.Round(v*1000)/1000, 'g', 4, 64)
	}
}
