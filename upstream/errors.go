package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"token-sidecar/internal/health"
	"token-sidecar/internal/secret"
)

// A Kind says what an error means for callers and for the breaker.
type Kind int

const (
	// Unavailable is no answer, 5xx, 408 or 425, or a call that was held back because of one of these.
	Unavailable Kind = iota + 1
	// Timeout is no answer in time.
	Timeout
	// BadResponse is a 2xx without a token, or a redirect.
	BadResponse
	// RateLimited is a 429, or a call held back because of an earlier one.
	RateLimited
	// Refused is a definitive refusal of this one request.
	Refused
	// Unauthorized is a 401 without an errorCode. It could have many reasons, so it is a failure of this one token, not
	// a definitive refusal.
	Unauthorized
	// ClientRefused is a definitive refusal of our own client_id or secret, which holds for every request.
	ClientRefused
)

// ErrorCodes are those in the auth service's documentation.
func ErrorCodes() []string {
	return []string{
		"ACCESS_TOKEN_GENERATION_NOT_ALLOWED", "CLIENT_TOKEN_GENERATION_NOT_ALLOWED", "INVALID_CLIENT_ID",
		"INVALID_CLIENT_ID_OR_SECRET", "INVALID_TOKEN_TYPE", "NOT_AUTHORIZED", "UNKNOWN_CLIENT_USER_ID",
	}
}

// String returns the kind as metrics and logs name it.
func (k Kind) String() string {
	switch k {
	case Unavailable:
		return "unavailable"
	case Timeout:
		return "timeout"
	case BadResponse:
		return "bad_response"
	case RateLimited:
		return "rate_limited"
	case Refused:
		return "refused"
	case Unauthorized:
		return "unauthorized"
	case ClientRefused:
		return "client_refused"
	default:
		return "unknown"
	}
}

// An Error is a failed call. Its text contains nothing that the auth service sent, except an errorCode made of capitals
// and underscores: a body may repeat a user id.
type Error struct {
	Kind Kind
	// Status is the auth service's HTTP status, 0 when it sent none.
	Status int
	// Code is its errorCode, empty when it sent none.
	Code string
	// RequestID is its x-humanapi-request-id, from the header or the body, for support cases.
	RequestID string
	// Body is the JSON object of a refusal as received, empty if it was not one.
	Body secret.Value[[]byte]
	// RetryAfter is how long to wait before asking again; 0 if unknown.
	RetryAfter time.Duration

	detail    string // what happened, in our own words
	cause     string // see Cause; empty: derived from Status and Code
	notAsked  bool   // the call did not go out
	overslept bool   // its time-out was noticed late, because this process stood still
	final     bool   // an immediate retry cannot help
}

// Held reports whether the call did not go out, so that e says nothing new about the auth service.
func (e *Error) Held() bool { return e.notAsked }

// Error implements error.
func (e *Error) Error() string {
	text := "auth service: " + e.Kind.String()
	if e.Status != 0 {
		text += fmt.Sprintf(" (status %d)", e.Status)
	}
	if printableCode(e.Code) {
		text += ": " + e.Code
	}
	if e.detail != "" {
		text += ": " + e.detail
	}
	return text
}

// printableCode reports whether code looks like an errorCode in the documentation.
func printableCode(code string) bool {
	for _, r := range code {
		if (r < 'A' || r > 'Z') && r != '_' {
			return false
		}
	}
	return code != "" && len(code) <= 64
}

// transportError classifies an error of the HTTP client. The error itself is dropped, because net/http quotes malformed
// answers in it.
func transportError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("auth service: call given up: %w", context.Canceled)
	}
	cause := health.NetworkCause(err)
	e := &Error{Kind: Unavailable, cause: cause, detail: cause}
	switch {
	case cause == health.TimedOut:
		e.Kind = Timeout
	case strings.HasPrefix(cause, "TLS: "):
		e.detail += "; see HUMANAPI_CA_FILE"
	}
	return e
}

func badResponse(status int, detail string) *Error {
	return &Error{Kind: BadResponse, Status: status, cause: causeNoToken, detail: detail}
}
