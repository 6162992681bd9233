// Package admin serves ADMIN_ADDR: probes, metrics and the status page. It is read-only, and never shows a token, a
// secret or a user id.
package admin

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed page.html
var page string

// Options configure the handler; all are required.
type Options struct {
	// Ready reports whether requests are served: not before start-up is complete, nor while draining. It ignores Redis
	// and the auth service, whose failure must not take the pod out of service.
	Ready func() bool
	// Metrics is what /metrics serves.
	Metrics prometheus.Gatherer
	// Status is what the page shows.
	Status func() Status
}

// New returns the handler of ADMIN_ADDR.
func New(opts Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !opts.Ready() {
			say(w, http.StatusServiceUnavailable, "not serving: starting or draining")
			return
		}
		say(w, http.StatusOK, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(opts.Metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /{$}", servePage(contentPolicy(page)))
	// The page fetches this every two seconds.
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(opts.Status())
	})
	return mux
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}

func servePage(policy string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(w, page)
	}
}

// contentPolicy allows the page's own script and style, and nothing else.
func contentPolicy(page string) string {
	return fmt.Sprintf("default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src '%s'; style-src '%s'",
		hashOf(between(page, "<script>", "</script>")), hashOf(between(page, "<style>", "</style>")))
}

func between(text, begin, end string) string {
	_, rest, _ := strings.Cut(text, begin)
	inner, _, _ := strings.Cut(rest, end)
	return inner
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// NewServer returns a server for h.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	conns := &limiter{}
	return &http.Server{
		Handler: paced(guard(h)), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
		ConnContext: conns.admit, ConnState: conns.follow,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
