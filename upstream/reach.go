package upstream

import (
	"context"
	"net/http"
)

// Reach connects to the auth service as a call would. It requests no token and sends no credentials; any answer is a
// success. The error is an [*Error], or wraps [context.Canceled].
func (c *Client) Reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	head, err := http.NewRequestWithContext(ctx, http.MethodHead, c.opts.URL+"/", nil)
	if err != nil {
		return &Error{Kind: Unavailable, detail: "the request cannot be built", final: true}
	}
	head.Header.Set("User-Agent", "token-sidecar")
	res, err := c.opts.Transport.RoundTrip(head)
	if err != nil {
		return transportError(ctx, err)
	}
	_ = res.Body.Close()
	return nil
}
