package charts

import (
	"testing"

	"go.uber.org/goleak"

	"token-sidecar/internal/cli"
	"token-sidecar/internal/testbed"
)

func TestMain(m *testing.M) {
	testbed.BecomeProgram(cli.Main)
	goleak.VerifyTestMain(m)
}
