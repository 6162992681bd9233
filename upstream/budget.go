package upstream

import (
	"fmt"
	"io"
	"sync"
)

const (
	// freeRetries is how many retries may be made before any were earned.
	freeRetries = 3
	// callsPerRetry is how many calls earn one retry: with four, at most one attempt in five is a retry.
	callsPerRetry = 4
)

// A budget keeps retries from multiplying an outage, like gRPC's retry throttling and Finagle's RetryBudget: there are
// never more than freeRetries + calls/callsPerRetry retries.
type budget struct {
	mu sync.Mutex
	// left is counted in calls: a retry costs callsPerRetry.
	left int
}

func newBudget() *budget { return &budget{left: freeRetries * callsPerRetry} }

// call notes that a call has gone out. No more than freeRetries are saved up, or a good day would pay for a storm of
// retries.
func (b *budget) call() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.left+1, freeRetries*callsPerRetry)
}

// retry takes one retry from the budget, and reports whether there was one.
func (b *budget) retry() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < callsPerRetry {
		return false
	}
	b.left -= callsPerRetry
	return true
}

// errClosed is what becomes of a request that net/http would have sent again.
var errClosed = fmt.Errorf("upstream: the connection was closed before the request was dealt with: %w", io.ErrUnexpectedEOF)

// rationed makes getBody, of an [http.Request], a retry like any other. With it net/http sends a request again by
// itself, on a new connection, when the server closes the first one without having dealt with it; if that closes them
// all, as one that is being shut down may with HTTP/2's GOAWAY, it does so hundreds of times a second.
func (b *budget) rationed(getBody func() (io.ReadCloser, error), forgone func()) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		if !b.retry() {
			forgone()
			return nil, errClosed
		}
		return getBody()
	}
}
