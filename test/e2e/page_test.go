package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// screenshotsTo is a folder for pictures of the whole page in every state; empty: none.
var screenshotsTo = flag.String("screenshots", "", "folder for pictures of the status page")

// wholePage takes pictures of the page, light and dark, on a screen and on a phone, and checks that everything in it is
// readable.
func (b *browser) wholePage(t *testing.T, name string) {
	t.Helper()
	for _, width := range []int64{1200, 360} {
		b.do(t, chromedp.EmulateViewport(width, 900))
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(t, scheme)
			name := fmt.Sprintf("%s-%d-%s", name, width, scheme)
			if b.text(t, "live") == "live" {
				b.findsNone(t, name+": too little contrast (WCAG AA)", contrastScript)
			}
			b.findsNone(t, name+": text that is too small or beyond the edge", smallScript)
			if *screenshotsTo == "" {
				continue
			}
			png, err := chromedp.Run(b.tab, chromedp.FullScreenshot(100))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(*screenshotsTo, name+".png"), png, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.do(t, chromedp.EmulateViewport(1100, 640))
	b.scheme(t, "light")
}

// TestPage opens the status page in a browser once, and checks that it follows what happens.
func TestPage(t *testing.T) {
	testbed.Needs(t, "chromium")
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	environ := auth.Environ("REDIS_URL="+redis.URL(), "BREAKER_OPEN_FOR=1h", "POD_NAME=web-1", "POD_NAMESPACE=shop")
	s := testbed.StartSidecar(t, environ...)
	b := newBrowser(t)
	b.open(t, s.Admin)
	b.shows(t, "redis", "up")
	b.shows(t, "callers", "served")
	b.shows(t, "name", "shop/web-1")
	b.wholePage(t, "fresh")

	for i := range 40 {
		auth.Set(sandbox.Mood{ExpiresIn: []int{60, 1000, 10_000, 40_000, 86_400}[i%5]})
		for range 1 + i%4 {
			s.Get(fmt.Sprint("policy-4711-", i))
		}
	}
	s.Get("unknown-policy-4711")
	b.shows(t, "serving", "yes")
	b.shows(t, "auth-v1-connect-token", "answers")
	b.shows(t, "hits", "60.0 %")
	b.shows(t, "failures", "UNKNOWN_CLIENT_USER_ID")
	b.shows(t, "legend", "fetched 40")
	if title := ask[string](t, b.tab, "document.title"); !strings.Contains(title, "● · shop/web-1") {
		t.Errorf("title %q", title)
	}
	b.wholePage(t, "traffic")
	if bars := ask[int](t, b.tab, `document.querySelectorAll("#chart rect:not(.hover), #left rect:not(.hover)").length`); bars < 8 {
		t.Errorf("%d bars are drawn", bars)
	}
	b.findsNone(t, "numbers at the axes that are not round", axisScript)
	unnamed := ask[int](t, b.tab, `[...document.querySelectorAll("svg, section, table th")].filter(e =>
		e.tagName === "svg" ? e.getAttribute("role") !== "img" || e.getAttribute("aria-label").length < 20 :
		e.tagName === "TH" ? !e.scope : !e.querySelector("h2, summary")).length`)
	if unnamed != 0 {
		t.Errorf("%d parts without a name for a screen reader", unnamed)
	}
	tips := ask[string](t, b.tab, `document.querySelector("#chart title").textContent`)
	if !strings.Contains(tips, "fetched") {
		t.Errorf("the chart's tooltip says %q", tips)
	}
	b.do(t, chromedp.Focus("summary"), chromedp.KeyEvent("\r"))
	b.shows(t, "settings", "UPSTREAM_TIMEOUT")
	b.do(t, chromedp.Focus("summary"), chromedp.KeyEvent("\r"))

	auth.Set(sandbox.Mood{Status: 500})
	for i := range 5 {
		s.Get(fmt.Sprint("broken-", i))
	}
	redis.Kill()
	b.shows(t, "auth-v1-connect-token", "next trial in")
	b.shows(t, "callers", "UPSTREAM_UNAVAILABLE")
	b.shows(t, "redis", "down")
	s.Do("DELETE", "client_user_id=policy-4711-1")
	b.shows(t, "forgets", "1 wait")
	b.wholePage(t, "breaker-open-redis-lost")
	if page := b.source(t); strings.Contains(page, "policy-4711") ||
		strings.Contains(page, sandbox.DefaultClientSecret) || strings.Contains(page, "sbx.") {
		t.Error("the page shows a user, a secret or a token")
	}
	b.isSilent(t)

	s.Kill()
	b.shows(t, "lost", "No answer from the sidecar since ")
	if title := ask[string](t, b.tab, "document.title"); !strings.Contains(title, "no answer since") {
		t.Errorf("title %q", title)
	}
	if opacity := ask[string](t, b.tab, `getComputedStyle(document.querySelector("main")).opacity`); opacity == "1" {
		t.Error("what is old is not grey")
	}
	b.wholePage(t, "sidecar-gone")
	testbed.LaunchSidecar(t, append(environ, "ADMIN_ADDR="+s.Admin)...)
	testbed.Until(t, "the page finds the sidecar again", func() bool { return b.text(t, "live") == "live" })
	b.shows(t, "auth-v1-connect-token", "answers")
	if !ask[bool](t, b.tab, `document.getElementById("lost").hidden`) {
		t.Error("it still says that the sidecar does not answer")
	}
}

// TestPageOfFaults takes pictures of the states that TestPage does not produce, in all forms.
func TestPageOfFaults(t *testing.T) {
	testbed.Needs(t, "chromium")
	b := newBrowser(t)
	for _, f := range faults() {
		if f.name != "auth-secret" && f.name != "redis-readonly" {
			continue
		}
		s := newScene(t, f)
		s.AwaitReady()
		b.open(t, s.Admin)
		f.inject(s)
		testbed.Eventually(t, "the page tells of "+f.name, func() error {
			s.drive()
			c, _, err := s.condition()
			if err != nil {
				return err
			}
			return b.says(t, f, c)
		})
		b.wholePage(t, f.name)
	}
}

// contrastScript lists every text whose contrast with its background is below 4.5.
const contrastScript = `(() => {
  const rgb = c => c.match(/[\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return "rgb(255,255,255)"; };
  return [...document.querySelectorAll("h1, h2, p, span, th, td, li, summary, svg text")].filter(e => e.textContent.trim()).filter(e => {
    const style = getComputedStyle(e), a = light(e.tagName === "text" ? style.fill : style.color), b = light(behind(e.parentElement));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5;
  }).map(e => e.tagName + ": " + e.textContent.trim().slice(0, 40));
})()`

// smallScript lists every label in a chart that is less than twelve pixels high or extends beyond it, and reports when
// the page is wider than the screen.
const smallScript = `(() => {
  const bad = [...document.querySelectorAll("svg text")].filter(e => {
    const text = e.getBoundingClientRect(), svg = e.closest("svg").getBoundingClientRect();
    return text.height < 12 || text.left < svg.left - 1 || text.right > svg.right + 1;
  }).map(e => e.textContent);
  if (document.documentElement.scrollWidth > innerWidth) bad.push("the page is " + document.documentElement.scrollWidth + " wide");
  return bad;
})()`

// axisScript lists every number at a vertical axis that is not a multiple of the second one, and reports when that is
// not 1, 2 or 5 times a power of ten.
const axisScript = `[...document.querySelectorAll("svg")].flatMap(svg => {
  const numbers = [...svg.querySelectorAll("text[text-anchor=end]")].map(e => Number(e.textContent.replaceAll(",", "")));
  const step = numbers[1], mantissa = step / 10 ** Math.floor(Math.log10(step));
  return numbers[0] !== 0 || ![1, 2, 5].includes(mantissa) ? numbers : numbers.filter(n => n % step);
})`
