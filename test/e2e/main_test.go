// Package e2e contains the outside tests that are too heavy for the program's module: a browser, Prometheus, images
// and, in package charts, Helm.
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
	if err := os.Chdir("../.."); err != nil { // the tests use the paths of the project's root
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
