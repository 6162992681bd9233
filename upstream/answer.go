package upstream

import (
	"bytes"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"token-sidecar/internal/jsonobject"
	"token-sidecar/internal/secret"
)

// maxLife bounds a lifetime, so that arithmetic on an absurd one cannot overflow.
const maxLife = 10 * 365 * 24 * time.Hour

// An Answer is one token, as the auth service sent it.
type Answer struct {
	// Body is the JSON object as received.
	Body secret.Value[[]byte]
	// Lifetimes are the fields in Body that say how long a token lives, in their order in Body. There is at least one.
	Lifetimes []Lifetime
	// Tokens are the tokens in Body. There is at least one.
	Tokens []secret.Text
	// RefreshToken is empty if none was sent.
	RefreshToken secret.Text
	// Sent is when the request was about to be sent. Lifetimes count from it.
	Sent time.Time
}

// A Lifetime is a field such as "expires_in":86400 in an Answer's Body.
type Lifetime struct {
	// Start and End delimit the digits in Body, without the quotes of a numeric string.
	Start, End int
	// Life is the field's value, above zero.
	Life time.Duration
}

// The fields that contain tokens, and those with their lifetimes.
var (
	tokenFields    = []string{"access_token", "id_token", "session_token", "client_token"}
	lifetimeFields = []string{"expires_in", "id_token_expires_in"}
)

// parseAnswer reads the body of a 2xx answer. Its errors are of kind BadResponse.
func parseAnswer(status int, body []byte, sent time.Time) (*Answer, error) {
	// The buffer's spare capacity is not kept with the token.
	answer := &Answer{Body: secret.Hide(bytes.Clone(body)), Sent: sent}
	has := make(map[string]bool) // false: null
	problem := eachField(body, func(name string, value jsonobject.Value) string {
		if _, repeated := has[name]; repeated {
			return "a field is repeated"
		}
		has[name] = !value.IsNull()
		switch {
		case value.IsNull():
		case slices.Contains(tokenFields, name):
			token, _ := value.Text()
			if token == "" {
				return name + " is not a text, or is empty"
			}
			answer.Tokens = append(answer.Tokens, secret.Hide(token))
		case slices.Contains(lifetimeFields, name):
			life, problem := parseLifetime(value)
			if problem != "" {
				return name + " " + problem
			}
			answer.Lifetimes = append(answer.Lifetimes, life)
		case name == "refresh_token":
			token, _ := value.Text()
			answer.RefreshToken = secret.Hide(token)
		}
		return ""
	})
	needsExpiresIn := has["access_token"] || has["session_token"] || has["client_token"]
	switch {
	case problem != "":
		return nil, badResponse(status, problem)
	case len(answer.Tokens) == 0:
		return nil, badResponse(status, "no token in it")
	case len(answer.Lifetimes) == 0, needsExpiresIn && !has["expires_in"]:
		return nil, badResponse(status, "the token's lifetime is missing")
	}
	return answer, nil
}

// eachField calls visit for each member of the JSON object in body. It stops at the first problem that visit returns,
// and returns it.
func eachField(body []byte, visit func(name string, value jsonobject.Value) string) string {
	s := jsonobject.New(string(body))
	for s.Next() {
		if problem := visit(s.Name(), s.Value()); problem != "" {
			return problem
		}
	}
	if s.Err() != nil {
		return "it " + s.Err().Error()
	}
	return ""
}

// parseLifetime reads a number or a numeric string of seconds.
func parseLifetime(value jsonobject.Value) (Lifetime, string) {
	digits, start := value.Raw, value.Start
	if quoted, ok := strings.CutPrefix(digits, `"`); ok {
		digits = strings.TrimSuffix(quoted, `"`)
		start++
	}
	seconds, err := strconv.ParseFloat(digits, 64)
	switch {
	case err != nil || math.IsNaN(seconds) || math.IsInf(seconds, 0):
		return Lifetime{}, "is not a number of seconds"
	case seconds <= 0:
		return Lifetime{}, "is zero or negative"
	}
	life := maxLife
	if seconds < maxLife.Seconds() {
		life = time.Duration(seconds * float64(time.Second))
	}
	if life <= 0 {
		return Lifetime{}, "is zero or negative"
	}
	return Lifetime{Start: start, End: start + len(digits), Life: life}, ""
}

// parseRefusal reads the body of a definitive refusal. The errorCode, if there is one, says what was refused.
func parseRefusal(status int, header http.Header, body []byte) *Error {
	e := &Error{Kind: Refused, Status: status, final: true}
	code := ""
	if eachField(body, func(name string, value jsonobject.Value) string {
		if name == "errorCode" {
			code, _ = value.Text()
		}
		return ""
	}) == "" {
		e.Body, e.Code = secret.Hide(body), code
	}
	e.RequestID = requestID(header, body)
	switch {
	case isClientRefusal(e.Code):
		e.Kind = ClientRefused
	case isBare(status, e.Code):
		e.Kind = Unauthorized
	}
	return e
}

// requestID returns the support id of an error, from the header or else from the body. An id that could not be passed
// on in a header is dropped.
func requestID(header http.Header, body []byte) string {
	id := header.Get("X-Humanapi-Request-Id")
	if id == "" {
		eachField(body, func(name string, value jsonobject.Value) string {
			if strings.EqualFold(name, "x-humanapi-request-id") {
				id, _ = value.Text()
			}
			return ""
		})
	}
	if len(id) > 128 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return id
}
