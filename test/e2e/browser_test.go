package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"token-sidecar/internal/testbed"
)

// record selects what is recorded anew: pictures (docs/images) or alerts (testdata/alerts).
var record = flag.String("record", "", "write anew: pictures or alerts")

// A browser shows the status page in one tab.
type browser struct {
	tab context.Context //nolint:containedctx // chromedp keeps the tab in it

	mu       sync.Mutex
	problems []string // messages on the console
}

// newBrowser starts a browser. It ends with the test.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	b := &browser{}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1100, 640),
		chromedp.WSURLReadTimeout(2*time.Minute))
	process, closeBrowser := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(closeBrowser)
	tab, closeTab := chromedp.NewContext(process)
	t.Cleanup(closeTab)
	if err := chromedp.Do(tab); err != nil { // starts the browser
		t.Fatal(err)
	}
	tab, cancel := context.WithTimeout(tab, 10*time.Minute)
	t.Cleanup(cancel)
	b.tab = tab
	b.do(t, chromedp.EmulateViewport(1100, 640))
	if err := chromedp.Listen(tab, func(event any) {
		if kind := fmt.Sprintf("%T", event); strings.Contains(kind, "ExceptionThrown") ||
			strings.Contains(kind, "EntryAdded") {
			b.mu.Lock()
			defer b.mu.Unlock()
			said, _ := json.Marshal(event)
			b.problems = append(b.problems, string(said))
		}
	}); err != nil {
		t.Fatal(err)
	}
	return b
}

// isSilent fails the test if there were messages on the console.
func (b *browser) isSilent(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, problem := range b.problems {
		t.Errorf("the browser complains: %s", problem)
	}
}

func (b *browser) do(t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(b.tab, actions...); err != nil {
		t.Fatal(err)
	}
}

// open opens the page of a sidecar.
func (b *browser) open(t *testing.T, addr string) {
	t.Helper()
	b.do(t, chromedp.Navigate("http://"+addr+"/"))
	b.shows(t, "live", "live")
}

func (b *browser) text(t *testing.T, id string) string {
	t.Helper()
	return ask[string](t, b.tab, `document.getElementById("`+id+`")?.innerText || ""`)
}

// source returns the current HTML of the page.
func (b *browser) source(t *testing.T) string {
	t.Helper()
	return ask[string](t, b.tab, "document.title + document.documentElement.outerHTML")
}

// shows waits until the element with that id contains part.
func (b *browser) shows(t *testing.T, id, part string) {
	t.Helper()
	testbed.Eventually(t, id+" shows "+part, func() error {
		if got := b.text(t, id); !strings.Contains(got, part) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// findsNone waits until a script that lists problems lists none. After a change, such as a new size, the page is laid
// out and drawn again a little later.
func (b *browser) findsNone(t *testing.T, what, script string) {
	t.Helper()
	testbed.Eventually(t, "none of: "+what, func() error {
		if found := ask[[]string](t, b.tab, script); len(found) != 0 {
			return fmt.Errorf("%v", found)
		}
		return nil
	})
}

// scheme selects light or dark.
func (b *browser) scheme(t *testing.T, scheme string) {
	t.Helper()
	if _, err := chromedp.Call(b.tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}); err != nil {
		t.Fatal(err)
	}
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
