package sandbox

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// faults are the ways in which the sandbox can be broken, by name.
var faults = map[string]http.HandlerFunc{
	"html":              body("text/html", "<html><body>Sign in</body></html>"),
	"empty":             body("application/json", ""),
	"half":              half,
	"huge":              huge,
	"no_token":          body("application/json", `{"expires_in":86400}`),
	"empty_token":       body("application/json", `{"access_token":"","expires_in":86400}`),
	"no_lifetime":       body("application/json", `{"access_token":"x","token_type":"Bearer"}`),
	"zero_lifetime":     body("application/json", `{"access_token":"x","expires_in":0}`),
	"negative_lifetime": body("application/json", `{"access_token":"x","expires_in":-1}`),
	"string_lifetime":   body("application/json", `{"access_token":"x","expires_in":"3600"}`),
	"hang":              func(_ http.ResponseWriter, r *http.Request) { wait(r, time.Hour) },
	"silent":            silent,
	"cut":               func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"redirect": func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/v1/elsewhere", http.StatusTemporaryRedirect)
	},
}

// Faults lists the values of [Mood].Fault.
func Faults() []string { return slices.Sorted(maps.Keys(faults)) }

func body(kind, content string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, content)
	}
}

func half(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "200")
	_, _ = io.WriteString(w, `{"access_token":"x","exp`)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// huge sends 64 MiB of a JSON string.
func huge(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"access_token":"`)
	block := strings.Repeat("x", 64<<10)
	for range 1024 {
		if _, err := io.WriteString(w, block); err != nil {
			return
		}
	}
	_, _ = io.WriteString(w, `","expires_in":86400}`)
}

// wait waits for d. It returns false if the caller leaves first.
func wait(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}
