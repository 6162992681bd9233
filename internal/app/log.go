package app

import (
	"bytes"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
)

// NewLog returns a log that is written to w in the background, so that a slow reader delays nothing. close writes the
// remaining lines, unless nobody reads them.
func NewLog(w io.Writer, s settings.Settings, reg prometheus.Registerer) (log *slog.Logger, closeLog func()) {
	dropped := promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "token_sidecar_log_lines_dropped_total",
		Help: "Log lines that were dropped because nobody read them or they could not be written.",
	})
	// The message has the format of the other lines, but does not queue behind them.
	resume := func(lines int) error {
		var line bytes.Buffer
		slog.New(newLogHandler(&line, s)).Warn("lines of the log were dropped here, because nobody read it",
			slog.Int("lines", lines))
		_, err := w.Write(line.Bytes())
		return err
	}
	writer := newLogWriter(w, resume, dropped)
	return slog.New(newLogHandler(writer, s)), writer.Close
}

func newLogHandler(w io.Writer, s settings.Settings) slog.Handler {
	opts := &slog.HandlerOptions{Level: s.LogLevel, ReplaceAttr: secret.ReplaceAttr}
	if s.LogFormat == "text" {
		return slog.NewTextHandler(w, opts)
	}
	return slog.NewJSONHandler(w, opts)
}
