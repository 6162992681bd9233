package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"
	"token-sidecar/internal/secret"
)

// maxBody bounds what is read of an answer, in bytes.
const maxBody = 1 << 20

// wire is the body of a request.
type wire struct {
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	UserID       string   `json:"client_user_id,omitempty"`
	Email        string   `json:"client_user_email,omitempty"`
	Type         string   `json:"type"`
	Scopes       []string `json:"extra_scopes,omitempty"`
}

// attempt asks once, and once more when our credentials were refused but have been replaced meanwhile: a
// rotation must not cost a request.
func (c *Client) attempt(ctx context.Context, req Request) (*Answer, error) {
	used := c.opts.Secret.Text()
	answer, err := c.send(ctx, req, used)
	var refused *Error
	if !errors.As(err, &refused) || refused.Kind != ClientRefused {
		return answer, err
	}
	// Two readings, because a new content counts from the second on.
	c.opts.Secret.Reload()
	c.opts.Secret.Reload()
	if current := c.opts.Secret.Text(); !secret.Equal(used, current.Reveal()) {
		used = current
		answer, err = c.send(ctx, req, used)
		if !errors.As(err, &refused) || refused.Kind != ClientRefused {
			return answer, err
		}
	}
	c.clientRefused(refused, used)
	return nil, err
}

// clientRefused holds all calls back, because the same secret would be refused again.
func (c *Client) clientRefused(why *Error, used secret.Text) {
	c.metrics.clientRefusals.Inc()
	if c.opts.RefusalPause <= 0 {
		return
	}
	c.opts.Log.Error("the auth service refused our client_id or client_secret: no new tokens for any user; set the right secret",
		slog.Int("status", why.Status), slog.Duration("asks_again_in", c.opts.RefusalPause))
	c.pause.set(time.Now().Add(c.opts.RefusalPause), why)
	if !secret.Equal(used, c.opts.Secret.Text().Reveal()) {
		c.pause.lift()
	}
}

func (c *Client) send(ctx context.Context, req Request, used secret.Text) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	sent := time.Now()
	answer, err := c.exchange(ctx, req, used)
	c.metrics.attempt(time.Since(sent), err)
	return answer, err
}

func (c *Client) exchange(ctx context.Context, req Request, used secret.Text) (*Answer, error) {
	body, err := json.Marshal(wire{
		ClientID: c.opts.ClientID, ClientSecret: used.Reveal(), UserID: req.UserID.Reveal(),
		Email: req.Email.Reveal(), Type: req.Type, Scopes: req.Scopes,
	})
	if err != nil {
		return nil, &Error{Kind: Unavailable, detail: "the request cannot be built", final: true}
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, c.opts.URL+req.Path, bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Kind: Unavailable, detail: "the request cannot be built", final: true}
	}
	post.Header.Set("Content-Type", "application/json")
	post.Header.Set("Accept", "application/json")
	post.Header.Set("User-Agent", "token-sidecar")
	sent := time.Now()
	res, err := c.http.Do(post)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	return c.judge(ctx, res, content, err, sent)
}

// judge turns a response into an answer or an error.
func (c *Client) judge(ctx context.Context, res *http.Response, body []byte, readErr error, sent time.Time) (*Answer, error) {
	now := time.Now()
	switch status := res.StatusCode; {
	case status >= 200 && status < 300:
		if readErr != nil {
			if ctx.Err() != nil {
				return nil, transportError(ctx, readErr)
			}
			return nil, badResponse(status, "it was cut short")
		}
		if len(body) > maxBody {
			return nil, badResponse(status, "it is larger than 1 MiB")
		}
		return parseAnswer(status, body, sent)
	case status < 400:
		e := badResponse(status, "it is a redirect, which is never followed; check HUMANAPI_AUTH_URL")
		e.final = true
		return nil, e
	case status == http.StatusTooManyRequests:
		e := &Error{Kind: RateLimited, Status: status, RequestID: requestID(res.Header), final: true}
		e.RetryAfter = retryAfter(res.Header, now)
		if e.RetryAfter == 0 {
			e.RetryAfter = defaultPause
		}
		c.pause.set(now.Add(e.RetryAfter), e)
		return nil, e
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		e := &Error{Kind: Unavailable, Status: status, RequestID: requestID(res.Header), RetryAfter: retryAfter(res.Header, now)}
		if e.RetryAfter > 0 {
			c.pause.set(now.Add(e.RetryAfter), e)
		}
		return nil, e
	default:
		if readErr != nil || len(body) > maxBody {
			body = nil
		}
		return nil, parseRefusal(status, res.Header, body)
	}
}
