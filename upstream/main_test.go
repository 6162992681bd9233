package upstream

import (
	"bytes"
	"io"
	"log"
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"token-sidecar/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func contains(body []byte, part string) bool { return bytes.Contains(body, []byte(part)) }

func hidden(content string) secret.Text { return secret.Hide(content) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func silent() *log.Logger { return log.New(io.Discard, "", 0) }
