package upstream

import (
	"io"
	"log"
	"log/slog"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func silent() *log.Logger { return log.New(io.Discard, "", 0) }
