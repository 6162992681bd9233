// Package e2e tests the project from outside with what is too heavy for the module of the program: a browser,
// Prometheus, images, and, in package charts, Helm.
package e2e

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"token-sidecar/internal/cli"
	"token-sidecar/internal/testbed"
)

func TestMain(m *testing.M) {
	testbed.BecomeProgram(cli.Main)
	if err := os.Chdir("../.."); err != nil { // what is tested is the project as it is seen from its root
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
