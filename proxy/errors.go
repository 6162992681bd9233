package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"
	"token-sidecar/upstream"
)

// A refusal is an error that the sidecar itself answers. Its message names the field and the remedy and never
// repeats a value.
type refusal struct {
	status  int
	code    string
	message string
}

// Error implements error.
func (e *refusal) Error() string { return e.code + ": " + e.message }

const (
	codeInvalid       = "INVALID_REQUEST"
	codeTokenRequired = "CALLER_TOKEN_REQUIRED" //nolint:gosec // a code, no credential
	codeUnavailable   = "UPSTREAM_UNAVAILABLE"
)

var (
	errTokenType = &refusal{http.StatusBadRequest, "INVALID_TOKEN_TYPE", "type is unknown; use access, client, id_token, id or session"}
	errMediaType = &refusal{http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", "send Content-Type: application/json or application/x-www-form-urlencoded, in UTF-8 and not compressed"}
	errBodySize  = &refusal{http.StatusRequestEntityTooLarge, "BODY_TOO_LARGE", "the body is larger than 16 KiB"}
	errNotFound  = &refusal{http.StatusNotFound, "NOT_FOUND", "there is no such call; see GET /token"}
	errMethod    = &refusal{http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "the call is not made with this method; see the Allow header"}
	errStopping  = &refusal{http.StatusServiceUnavailable, "SHUTTING_DOWN", "the sidecar is shutting down"}
	errOverload  = &refusal{http.StatusServiceUnavailable, "OVERLOADED", "more requests than MAX_CONCURRENT_REQUESTS are in progress"}
	errTooLate   = &refusal{http.StatusGatewayTimeout, "UPSTREAM_TIMEOUT", "the auth service did not answer in time"}
	errClientID  = &refusal{http.StatusUnauthorized, "INVALID_CLIENT_ID", "client_id is not the sidecar's; leave it out"}
	errHash      = &refusal{http.StatusBadRequest, codeInvalid, "X-Rejected-Token-Hash must be sent once, as the SHA-256 of the access token in 64 hexadecimal digits"}
	errInternal  = &refusal{http.StatusInternalServerError, "INTERNAL_ERROR", "a defect in the sidecar; its log tells more"}
)

func invalid(field, problem string) error {
	return &refusal{http.StatusBadRequest, codeInvalid, printableName(field) + " " + problem}
}

func unknownField(name string) error {
	return invalid(name, "is not a field of this call; the fields are client_user_id, type, client_user_email and extra_scopes")
}

// printableName repeats a field's name only when it looks like one: it could as well be a value.
func printableName(name string) string {
	for i, r := range name {
		if (r < 'a' || r > 'z') && (r != '_' || i == 0) {
			return "a name that was sent"
		}
	}
	if name == "" || len(name) > 40 {
		return "a name that was sent"
	}
	return name
}

// answerTo is what a caller is told of err.
type answerTo struct {
	status     int
	code       string
	body       []byte // complete JSON; empty: made of code and message
	message    string
	requestID  string
	retryAfter time.Duration
}

func explain(err error) answerTo {
	var own *refusal
	var theirs *upstream.Error
	switch {
	case errors.As(err, &own):
		a := answerTo{status: own.status, code: own.code, message: own.message}
		if own.status == http.StatusServiceUnavailable {
			a.retryAfter = time.Second
		}
		return a
	case errors.As(err, &theirs):
		return explainUpstream(theirs)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return explain(errTooLate)
	default:
		return explain(errInternal)
	}
}

func explainUpstream(e *upstream.Error) answerTo {
	a := answerTo{requestID: e.RequestID, retryAfter: e.RetryAfter}
	switch e.Kind {
	case upstream.Timeout:
		a.status, a.code, a.message = errTooLate.status, errTooLate.code, errTooLate.message
	case upstream.BadResponse:
		a.status, a.code, a.message = http.StatusBadGateway, "UPSTREAM_BAD_RESPONSE", e.Error()
	case upstream.RateLimited:
		a.status, a.code = http.StatusTooManyRequests, "UPSTREAM_RATE_LIMITED"
		a.message = "the auth service asks for a pause; ask again after Retry-After"
	case upstream.Refused, upstream.ClientRefused:
		a.status, a.code = e.Status, e.Code
		if a.code == "" {
			a.code = "UPSTREAM_REFUSED"
		}
		a.message = "the auth service refused this request"
		if e.Kind == upstream.ClientRefused {
			a.message = "the auth service refused the sidecar's own client_id or client_secret"
		}
		a.body = complete(e.Body.Reveal(), a.code, a.message)
	default:
		a.status, a.code, a.message = http.StatusServiceUnavailable, codeUnavailable, e.Error()
		a.retryAfter = max(a.retryAfter, time.Second)
	}
	return a
}

// complete adds an errorCode and a message to the fields of a refusal that lacks them. It returns nil when
// body is no JSON object.
func complete(body []byte, code, message string) []byte {
	var all map[string]json.RawMessage
	if json.Unmarshal(body, &all) != nil || all == nil {
		return nil
	}
	for name, value := range map[string]string{"errorCode": code, "message": message} {
		if raw, there := all[name]; !there || string(raw) == "null" {
			all[name], _ = json.Marshal(value)
		}
	}
	whole, err := json.Marshal(all)
	if err != nil {
		return nil
	}
	return whole
}

// writeError answers err.
func (h *Handler) writeError(w http.ResponseWriter, err error) {
	a := explain(err)
	h.metrics.failed(a.code)
	answer(w, a)
}

// answer writes a.
func answer(w http.ResponseWriter, a answerTo) {
	body := a.body
	if body == nil {
		body, _ = json.Marshal(map[string]string{"errorCode": a.code, "message": a.message})
	}
	header := w.Header()
	header["Content-Type"] = jsonType
	header["Cache-Control"] = noStore
	if a.requestID != "" {
		header.Set("X-Humanapi-Request-Id", a.requestID)
	}
	if a.code == codeTokenRequired {
		header.Set("WWW-Authenticate", "Bearer") // RFC 6750, section 3
	}
	if a.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(a.retryAfter.Seconds()))))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(append(body, '\n'))
}
