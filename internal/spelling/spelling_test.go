package spelling

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"serve", "serve", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"sevre", "serve", 1},
		{"srve", "serve", 1},
		{"serrve", "serve", 1},
		{"sarve", "serve", 1},
		{"kitten", "sitting", 3},
		{"ca", "abc", 3},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"serve", "status", "get"}
	for typed, want := range map[string]string{"sevre": "serve", "stats": "status", "git": "get", "sandbox": ""} {
		if got := Nearest(typed, names, 2); got != want {
			t.Errorf("%q: %q, want %q", typed, got, want)
		}
	}
}
