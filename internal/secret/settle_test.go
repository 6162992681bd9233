package secret

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// opened returns a File that holds "old", and functions that write it in place, replace it with one written that long
// ago, and tell what has taken effect since.
func opened(t *testing.T) (f *File, write func(string), replace func(string, time.Duration), taken func() []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	put := func(path, content string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if at := time.Now().Add(-age); os.Chtimes(path, at, at) != nil { // virtual time
			t.Fatal("its time cannot be set")
		}
	}
	put(path, "old", 0)
	f, err := Open("SETTING", path, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	f.OnChange(func() { all = append(all, f.Text().Reveal()) })
	write = func(content string) { put(path, content, 0) }
	replace = func(content string, age time.Duration) {
		put(path+".new", content, age)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	return f, write, replace, func() []string {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Clone(all)
	}
}

// TestHalfAFileHasNoEffect: however often and from how many goroutines it is read while it is being written.
func TestHalfAFileHasNoEffect(t *testing.T) {
	for _, pause := range []time.Duration{0, settle / 10, settle / 2, settle - 1} {
		for _, readers := range []int{1, 2, 10} {
			synctest.Test(t, func(t *testing.T) {
				f, write, _, taken := opened(t)
				stop := make(chan struct{})
				var reading sync.WaitGroup
				for i := range readers {
					reading.Go(func() {
						time.Sleep(time.Duration(i) * settle / 20)
						for {
							select {
							case <-stop:
								return
							default:
								f.Reload()
								f.Reload()
								time.Sleep(settle / 7)
							}
						}
					})
				}
				for _, content := range []string{"n", "ne", "", "n", "ne", "new"} {
					write(content)
					time.Sleep(pause)
				}
				time.Sleep(3 * settle)
				close(stop)
				reading.Wait()
				if got := taken(); !slices.Equal(got, []string{"new"}) {
					t.Errorf("%d readers, a pause of %v: %q took effect", readers, pause, got)
				}
			})
		}
	}
}

// TestHowSoonNewContentIsTaken: one that replaces the file at once if it was complete before, any other after a while.
// Nobody waits without need.
func TestHowSoonNewContentIsTaken(t *testing.T) {
	for name, c := range map[string]struct {
		change func(write func(string), replace func(string, time.Duration))
		after  time.Duration
	}{
		"unchanged":         {func(func(string), func(string, time.Duration)) {}, 0},
		"written":           {func(write func(string), _ func(string, time.Duration)) { write("new") }, settle},
		"replaced":          {func(_ func(string), replace func(string, time.Duration)) { replace("new", settle) }, 0},
		"replaced just now": {func(_ func(string), replace func(string, time.Duration)) { replace("new", settle-1) }, settle},
		"of the future":     {func(_ func(string), replace func(string, time.Duration)) { replace("new", -time.Hour) }, settle},
		"the same again":    {func(_ func(string), replace func(string, time.Duration)) { replace("old", 0) }, 0},
		"emptied":           {func(write func(string), _ func(string, time.Duration)) { write("") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, write, replace, taken := opened(t)
				c.change(write, replace)
				want := 0
				if content, _, err := f.read(); err == nil && content != "old" {
					want = 1
				}
				began := time.Now()
				f.Reload()
				if took := time.Since(began); took != c.after || len(taken()) != want {
					t.Errorf("%q took effect after %v", taken(), took)
				}
			})
		})
	}
}
