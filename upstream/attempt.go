package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"token-sidecar/internal/secret"
)

// maxBody bounds how much of an answer is read, in bytes.
const maxBody = 256 << 10

// wire is the body of a request.
type wire struct {
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	UserID       string   `json:"client_user_id,omitempty"`
	Email        string   `json:"client_user_email,omitempty"`
	Type         string   `json:"type"`
	Scopes       []string `json:"extra_scopes,omitempty"`
}

// attempt asks once, and once more if our credentials were refused but have been replaced meanwhile: a rotation must
// not fail a request.
func (c *Client) attempt(ctx context.Context, k *call) (*Answer, error) {
	k.used = c.opts.Secret.Text()
	answer, err := c.send(ctx, k.req, k.used)
	if !doubtsSecret(err) {
		return answer, err
	}
	c.opts.Secret.Reload()
	if current := c.opts.Secret.Text(); !secret.Equal(k.used, current.Reveal()) {
		k.used = current
		return c.send(ctx, k.req, k.used)
	}
	return answer, err
}

// doubtsSecret reports whether err may be due to an outdated client secret.
func doubtsSecret(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Kind == ClientRefused || e.Kind == Unauthorized)
}

func (c *Client) send(ctx context.Context, req Request, used secret.Text) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	sent := time.Now()
	answer, err := c.exchange(ctx, req, used)
	took := time.Since(sent)
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == Timeout && took > c.opts.Timeout+oversleep {
		e.overslept = true
	}
	c.metrics.attempt(took, err)
	return answer, err
}

// oversleep is how late a time-out is noticed at most, unless this process stood still: frozen, or without a processor.
// Whatever was under way then timed out at once, which says nothing about the auth service.
const oversleep = time.Second

// failureBodyLimit is how long the body of a failure is waited for. Everybody else goes on asking until it is judged.
const failureBodyLimit = 500 * time.Millisecond

func (c *Client) exchange(ctx context.Context, req Request, used secret.Text) (*Answer, error) {
	body, err := json.Marshal(wire{
		ClientID: c.opts.ClientID, ClientSecret: used.Reveal(), UserID: req.UserID.Reveal(),
		Email: req.Email.Reveal(), Type: req.Type, Scopes: req.Scopes,
	})
	if err != nil {
		return nil, &Error{Kind: Unavailable, cause: causeOurRequest, detail: "the request cannot be built", final: true}
	}
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, c.opts.URL+req.Path, bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Kind: Unavailable, cause: causeOurRequest, detail: "the request cannot be built", final: true}
	}
	post.GetBody = c.paths[req.Path].retries.rationed(post.GetBody, c.metrics.retriesForgone.Inc)
	post.Header.Set("Content-Type", "application/json")
	post.Header.Set("Accept", "application/json")
	post.Header.Set("User-Agent", "token-sidecar")
	sent := time.Now()
	res, err := c.opts.Transport.RoundTrip(post)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	if failsByStatus(res.StatusCode) { // of its body, only the request id is of use
		defer time.AfterFunc(failureBodyLimit, abandon).Stop()
	}
	var content []byte
	if hasMeaning(res.StatusCode) {
		content, err = io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	}
	if err != nil && ctx.Err() != nil && !failsByStatus(res.StatusCode) {
		return nil, transportError(ctx, err)
	}
	return judge(res, content, err, sent, used)
}

// hasMeaning reports whether the body of an answer with that status is read: it may be a token or a refusal. No other
// is waited for, least of all that of a 101 (Switching Protocols), which is the connection itself: no deadline ends it.
func hasMeaning(status int) bool { return isSuccess(status) || status >= 400 }

func isSuccess(status int) bool { return status >= 200 && status < 300 }

// failsByStatus reports whether an answer with that status is a failure, whatever its body says.
func failsByStatus(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusTooEarly:
		return true
	}
	return status >= 500
}

// judge turns a response into an answer or an error. readErr tells why body is not all of it; used is the client secret
// that the request was sent with.
func judge(res *http.Response, body []byte, readErr error, sent time.Time, used secret.Text) (*Answer, error) {
	status := res.StatusCode
	if isSuccess(status) {
		switch {
		case readErr != nil:
			return nil, badResponse(status, "it was cut short")
		case len(body) > maxBody:
			return nil, badResponse(status, "it is larger than 256 KiB")
		case echoes(body, used):
			return nil, badResponse(status, "it contains our client secret, and is neither passed on nor kept")
		}
		return parseAnswer(status, body, sent)
	}
	if readErr != nil || len(body) > maxBody {
		body = nil
	}
	e := refusalOf(res, body, time.Now())
	if echoes(body, used) {
		e.Body = secret.Value[[]byte]{}
		e.detail = strings.TrimPrefix(e.detail+"; its body contained our client secret, and was dropped", "; ")
	}
	if echoes([]byte(e.Code), used) {
		e.Code = ""
	}
	if echoes([]byte(e.RequestID), used) {
		e.RequestID = ""
	}
	return nil, e
}

// refusalOf turns a response other than 2xx into an error.
func refusalOf(res *http.Response, body []byte, now time.Time) *Error {
	status := res.StatusCode
	switch {
	case status < 200:
		return badResponse(status, "its status is neither that of a token nor that of a refusal")
	case status < 400:
		e := badResponse(status, "it is a redirect, which is never followed; check HUMANAPI_AUTH_URL")
		e.final, e.cause = true, causeRedirect
		return e
	case status == http.StatusTooManyRequests:
		e := &Error{Kind: RateLimited, Status: status, RequestID: requestID(res.Header, body), final: true}
		e.RetryAfter = retryAfter(res.Header, now)
		if e.RetryAfter == 0 {
			e.RetryAfter = rateLimitReset(res.Header, now)
		}
		if e.RetryAfter == 0 {
			e.RetryAfter = defaultRetryAfter
		}
		return e
	case failsByStatus(status):
		return &Error{
			Kind: Unavailable, Status: status, RequestID: requestID(res.Header, body),
			RetryAfter: retryAfter(res.Header, now),
		}
	default:
		return parseRefusal(status, res.Header, body)
	}
}
