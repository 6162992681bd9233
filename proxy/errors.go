package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
)

// An apiError is an error of the sidecar itself. Its message names the field and the remedy, and never repeats a value.
type apiError struct {
	status  int
	code    string
	message string
}

// Error implements error.
func (e *apiError) Error() string { return e.code + ": " + e.message }

const (
	codeInvalid       = "INVALID_REQUEST"
	codeTokenRequired = "CALLER_TOKEN_REQUIRED" //nolint:gosec // a code, no credential
)

var (
	errTokenType = &apiError{
		http.StatusBadRequest, "INVALID_TOKEN_TYPE",
		"type is unknown; use access, client, id_token, id or session",
	}
	errMediaType = &apiError{
		http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE",
		"send Content-Type: application/json or application/x-www-form-urlencoded, in UTF-8 and not compressed",
	}
	errBodySize = &apiError{http.StatusRequestEntityTooLarge, "BODY_TOO_LARGE", "the body is larger than 16 KiB"}
	errNotFound = &apiError{http.StatusNotFound, "NOT_FOUND", "there is no such call; see GET /token"}
	errMethod   = &apiError{
		http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED",
		"the call is not made with this method; see the Allow header",
	}
	errStopping = &apiError{http.StatusServiceUnavailable, "SHUTTING_DOWN", "the sidecar is shutting down"}
	errOverload = &apiError{
		http.StatusServiceUnavailable, "OVERLOADED",
		"MAX_CONCURRENT_REQUESTS requests are waiting already",
	}
	errAudit = &apiError{
		http.StatusServiceUnavailable, "AUDIT_UNAVAILABLE",
		"the audit log cannot be written, so this is not answered; the sidecar's log tells why",
	}
	errTooLate  = &apiError{http.StatusGatewayTimeout, "UPSTREAM_TIMEOUT", "the auth service did not answer in time"}
	errClientID = &apiError{http.StatusUnauthorized, "INVALID_CLIENT_ID", "client_id is not the sidecar's; leave it out"}
	errHash     = &apiError{
		http.StatusBadRequest, codeInvalid,
		"X-Rejected-Token-Hash must be sent once, as the SHA-256 of the access token in 64 hexadecimal digits",
	}
	errInternal = &apiError{
		http.StatusInternalServerError, "INTERNAL_ERROR",
		"a defect in the sidecar; its log tells more",
	}

	errTypeNotAllowed = &apiError{
		http.StatusForbidden, "TYPE_NOT_ALLOWED",
		"the sidecar may not vend this type; see its setting ALLOWED_TYPES",
	}
	errSmuggling = &apiError{
		http.StatusBadRequest, codeInvalid,
		"it is not certain where the body ends; send Content-Length or, with HTTP/1.1, Transfer-Encoding: chunked, and that once",
	}
)

// errForgetPending is not the caller's fault: this sidecar has forgotten the token, and the fleet will.
var errForgetPending = errors.New("forgotten by this sidecar; Redis cannot be told yet, and will be as soon as it takes writes")

func invalid(field, problem string) error {
	return &apiError{http.StatusBadRequest, codeInvalid, printableName(field) + " " + problem}
}

func unknownField(name string) error {
	return invalid(name, "is not a field of this call; the fields are client_user_id, type, client_user_email and extra_scopes")
}

// printableName repeats a field's name only if it looks like one: it could be a value.
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

// An errorResponse is the answer to a request that failed.
type errorResponse struct {
	status     int
	code       string
	theirs     bool   // whether code was sent by the auth service
	body       []byte // complete JSON; if empty, made from code and message
	message    string
	requestID  string
	cause      string // why it failed, for the log, if that is not the caller's fault
	retryAfter time.Duration
}

// countedAs is the code under which the metrics count r: the auth service could send any number of others.
func (r errorResponse) countedAs() string {
	if r.theirs && !slices.Contains(upstream.ErrorCodes(), r.code) {
		return other
	}
	return r.code
}

func explain(err error) errorResponse {
	var own *apiError
	var theirs *upstream.Error
	switch {
	case errors.As(err, &own):
		r := errorResponse{status: own.status, code: own.code, message: own.message}
		if own.status == http.StatusServiceUnavailable {
			r.retryAfter = time.Second
		}
		return r
	case errors.As(err, &theirs):
		return explainUpstream(theirs)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, vend.ErrTooLate):
		return explain(errTooLate)
	default:
		return explain(errInternal)
	}
}

func explainUpstream(e *upstream.Error) errorResponse {
	r := errorResponse{requestID: e.RequestID, retryAfter: e.RetryAfter, cause: e.Cause()}
	switch e.Kind {
	case upstream.Timeout:
		r.status, r.code, r.message = errTooLate.status, errTooLate.code, errTooLate.message
	case upstream.BadResponse:
		r.status, r.code, r.message = http.StatusBadGateway, "UPSTREAM_BAD_RESPONSE", e.Error()
	case upstream.RateLimited:
		r.status, r.code = http.StatusTooManyRequests, "UPSTREAM_RATE_LIMITED"
		r.message = "the auth service asks for a pause; ask again after Retry-After"
	case upstream.Refused, upstream.Unauthorized, upstream.ClientRefused:
		r.status, r.code, r.theirs = e.Status, cmp.Or(e.Code, "UPSTREAM_REFUSED"), e.Code != ""
		r.message = "the auth service refused this request"
		if e.Kind == upstream.ClientRefused {
			r.message = "the auth service refused the sidecar's own client_id or client_secret"
		}
		r.body = complete(e.Body.Reveal(), r.code, r.message)
	default:
		r.status, r.code, r.message = http.StatusServiceUnavailable, "UPSTREAM_UNAVAILABLE", e.Error()
		r.retryAfter = max(r.retryAfter, time.Second)
	}
	return r
}

// complete adds an errorCode and a message to the fields of a refusal that lacks them, or leaves them empty. It returns
// nil when body is no JSON object.
func complete(body []byte, code, message string) []byte {
	var all map[string]json.RawMessage
	if json.Unmarshal(body, &all) != nil || all == nil {
		return nil
	}
	for name, value := range map[string]string{"errorCode": code, "message": message} {
		if raw := string(all[name]); raw == "" || raw == "null" || raw == `""` {
			all[name], _ = json.Marshal(value)
		}
	}
	whole, err := json.Marshal(all)
	if err != nil {
		return nil
	}
	return whole
}

// writeError answers with err, and counts it.
func (h *Handler) writeError(w http.ResponseWriter, err error) *errorResponse {
	r := explain(err)
	h.metrics.countError(r.countedAs())
	r.write(w)
	return &r
}

func (r errorResponse) write(w http.ResponseWriter) {
	body := r.body
	if body == nil {
		body, _ = json.Marshal(map[string]string{"errorCode": r.code, "message": r.message})
	}
	body = append(body, '\n')
	header := w.Header()
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header["Content-Type"] = jsonType
	header["Cache-Control"] = noStore
	if r.requestID != "" {
		header.Set("X-Humanapi-Request-Id", r.requestID)
	}
	if r.code == codeTokenRequired {
		header.Set("WWW-Authenticate", "Bearer") // RFC 6750, section 3
	}
	if r.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(r.retryAfter.Seconds()))))
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(body)
}

// writeMessage answers with a message that is not an error.
func writeMessage(w http.ResponseWriter, status int, message string) {
	body, _ := json.Marshal(map[string]string{"message": message})
	header := w.Header()
	header["Content-Type"] = jsonType
	header["Cache-Control"] = noStore
	header.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
