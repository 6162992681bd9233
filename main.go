// Token-sidecar vends Human API tokens to the containers of its own pod, so that the client secret stays in one place
// and the auth service is asked once per token.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"token-sidecar/internal/cli"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal drains. After stop, a second one has its default effect and ends the process at once.
	context.AfterFunc(ctx, stop)
	return cli.Main(ctx)
}
