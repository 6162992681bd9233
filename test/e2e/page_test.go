package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// screenshotsTo is a folder that takes pictures of the status page; empty: none.
var screenshotsTo = flag.String("screenshots", "", "folder for pictures of the status page")

// TestPage opens the status page in a browser once, and sees it tell what happens.
func TestPage(t *testing.T) {
	testbed.Needs(t, "chromium")
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	environ := auth.Environ("REDIS_URL="+redis.URL(), "BREAKER_OPEN_FOR=1h")
	s := testbed.StartSidecar(t, environ...)
	for i := range 40 {
		auth.Set(sandbox.Mood{ExpiresIn: []int{60, 1000, 10_000, 40_000, 86_400}[i%5]})
		for range 1 + i%4 {
			s.Get(fmt.Sprint("policy-4711-", i))
		}
	}
	s.Get("unknown-policy-4711")

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1200, 1000))
	browser, closeBrowser := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	defer closeBrowser()
	tab, closeTab := chromedp.NewContext(browser)
	defer closeTab()
	if err := chromedp.Do(tab); err != nil { // starts the browser
		t.Fatal(err)
	}
	tab, cancel := context.WithTimeout(tab, time.Minute)
	defer cancel()
	var problems []string
	var mu sync.Mutex
	if err := chromedp.Listen(tab, func(event any) {
		if text := fmt.Sprintf("%T", event); strings.Contains(text, "ExceptionThrown") || strings.Contains(text,
			"EntryAdded") {
			mu.Lock()
			defer mu.Unlock()
			said, _ := json.Marshal(event)
			problems = append(problems, string(said))
		}
	}); err != nil {
		t.Fatal(err)
	}
	do := func(actions ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(tab, actions...); err != nil {
			t.Fatal(err)
		}
	}
	text := func(id string) string { return ask[string](t, tab, `document.getElementById("`+id+`").innerText`) }
	shows := func(id, part string) {
		t.Helper()
		testbed.Eventually(t, id+" shows "+part, func() error {
			if got := text(id); !strings.Contains(got, part) {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
	}
	picture := func(name string) {
		t.Helper()
		png, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
		if err != nil {
			t.Fatal(err)
		}
		if len(png) < 10_000 {
			t.Errorf("%s: a picture of %d bytes", name, len(png))
		}
		if *screenshotsTo != "" {
			if err := os.WriteFile(filepath.Join(*screenshotsTo, name+".png"), png, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}

	do(chromedp.Navigate("http://" + s.Admin + "/"))
	shows("serving", "yes")
	shows("auth", "breaker closed")
	shows("redis", "up")
	shows("hits", "%")
	shows("failures", "UNKNOWN_CLIENT_USER_ID")
	shows("legend", "fetched 40")
	picture("healthy")

	if bars := ask[int](t, tab, `document.querySelectorAll("#chart rect, #left rect").length`); bars < 8 {
		t.Errorf("%d bars are drawn", bars)
	}
	unnamed := ask[int](t, tab, `[...document.querySelectorAll("svg, section, table th")].filter(e =>
		e.tagName === "svg" ? e.getAttribute("role") !== "img" || e.getAttribute("aria-label").length < 20 :
		e.tagName === "TH" ? !e.scope : !e.querySelector("h2, summary")).length`)
	if unnamed != 0 {
		t.Errorf("%d parts without a name for a screen reader", unnamed)
	}
	for _, scheme := range []string{"light", "dark"} {
		if _, err := chromedp.Call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		}); err != nil {
			t.Fatal(err)
		}
		if low := ask[[]string](t, tab, contrastScript); len(low) != 0 {
			t.Errorf("%s: too little contrast (WCAG AA): %v", scheme, low)
		}
	}
	do(chromedp.Focus("summary"), chromedp.KeyEvent("\r"))
	shows("settings", "UPSTREAM_TIMEOUT")

	auth.Set(sandbox.Mood{Status: 500})
	for i := range 5 {
		s.Get(fmt.Sprint("broken-", i))
	}
	redis.Kill()
	testbed.Until(t, "the loss of Redis is noticed", func() bool {
		s.Get(fmt.Sprint("policy-4711-", time.Now().UnixNano()))
		return strings.Contains(s.Metrics(), "\ntoken_sidecar_redis_up 0\n")
	})
	shows("auth", "breaker open")
	shows("auth-note", "next trial in")
	shows("redis", "down")
	shows("failures", "UPSTREAM_UNAVAILABLE")
	do(chromedp.Focus("summary"), chromedp.KeyEvent("\r"))
	picture("breaker-open-redis-gone")

	page := ask[string](t, tab, "document.documentElement.outerHTML")
	if strings.Contains(page, "policy-4711") || strings.Contains(page, sandbox.DefaultClientSecret) ||
		strings.Contains(page, "sbx.") {
		t.Error("the page shows a user, a secret or a token")
	}
	mu.Lock()
	for _, problem := range problems {
		t.Errorf("the browser complains: %s", problem)
	}
	mu.Unlock()
	s.Kill()
	shows("live", "connection lost")
	testbed.LaunchSidecar(t, append(environ, "ADMIN_ADDR="+s.Admin)...)
	testbed.Until(t, "the page finds the sidecar again", func() bool { return text("live") == "live" })
	shows("auth", "breaker closed")
}

// ask evaluates a script in the page.
func ask[T any](t *testing.T, tab context.Context, script string) T {
	t.Helper()
	value, err := chromedp.Run(tab, chromedp.Evaluate[T](script))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// contrastScript names every text whose contrast to what is behind it is below 4.5.
const contrastScript = `(() => {
  const rgb = c => c.match(/[\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return "rgb(255,255,255)"; };
  return [...document.querySelectorAll("h1, h2, p, span, th, td, li, summary, svg text")].filter(e => e.textContent.trim()).filter(e => {
    const style = getComputedStyle(e), a = light(e.tagName === "text" ? style.fill : style.color), b = light(behind(e.parentElement));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5;
  }).map(e => e.tagName + ": " + e.textContent.trim().slice(0, 40));
})()`
