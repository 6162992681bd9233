package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// A Mood is how the sandbox behaves. The zero Mood is healthy.
type Mood struct {
	// LatencyMS delays every answer, in milliseconds.
	LatencyMS int `json:"latency_ms,omitempty"`
	// Fault is one of [Faults], or empty.
	Fault string `json:"fault,omitempty"`
	// Status, if not 0, is the status of every answer, whose body then gives no reason except ErrorCode.
	Status int `json:"status,omitempty"`
	// ErrorCode is used with Status.
	ErrorCode string `json:"error_code,omitempty"`
	// RetryAfter is used with Status, verbatim: seconds, an HTTP date, or something invalid.
	RetryAfter string `json:"retry_after,omitempty"`
	// RateLimitResetIn is used with Status: X-Rate-Limit-Reset is that many seconds from now.
	RateLimitResetIn int `json:"rate_limit_reset_in,omitempty"`
	// Echo makes every refusal repeat the request, including the client secret.
	Echo bool `json:"echo,omitempty"`
	// ExpiresIn is the lifetime of new tokens in seconds; 0 means 86400.
	ExpiresIn int `json:"expires_in,omitempty"`
	// TokenLateMS delays tokens after they were made, in milliseconds, so that they arrive with less life than they
	// claim.
	TokenLateMS int `json:"token_late_ms,omitempty"`
	// SameToken returns the last token again until it expires, always with its full lifetime.
	SameToken bool `json:"same_token,omitempty"`
	// RefuseClientTokens answers type client with CLIENT_TOKEN_GENERATION_NOT_ALLOWED.
	RefuseClientTokens bool `json:"refuse_client_tokens,omitempty"`
	// ClientSecret replaces the secret that callers must send; empty keeps it.
	ClientSecret string `json:"client_secret,omitempty"`
	// Users and Paths are moods for the calls of one user or to one path, instead of this one. A user's takes
	// precedence.
	Users map[string]Mood `json:"users,omitempty"`
	Paths map[string]Mood `json:"paths,omitempty"`
}

// tokenPaths are the paths of the auth service's calls.
var tokenPaths = []string{"/v1/connect/token", "/v1/admin/token"}

// of returns the mood for a call.
func (m Mood) of(path, user string) Mood {
	if own, ok := m.Users[user]; ok {
		return own
	}
	if own, ok := m.Paths[path]; ok {
		return own
	}
	return m
}

// A fieldError is a mistake in a field of a mood.
type fieldError struct{ field, says string }

func (e fieldError) Error() string { return e.field + ": " + e.says }

// check returns the first mistake in m; within is the path of m if it is part of another mood.
func (m Mood) check(within string) error {
	wrong := func(field, format string, args ...any) error {
		return fieldError{within + field, fmt.Sprintf(format, args...)}
	}
	for _, number := range []struct {
		field string
		value int
	}{
		{"latency_ms", m.LatencyMS},
		{"token_late_ms", m.TokenLateMS},
		{"expires_in", m.ExpiresIn},
		{"rate_limit_reset_in", m.RateLimitResetIn},
	} {
		if number.value < 0 {
			return wrong(number.field, "%d is negative; the least is 0", number.value)
		}
	}
	_, known := faults[m.Fault]
	switch {
	case m.Fault != "" && !known:
		return wrong("fault", "%q is unknown; use one of %s", m.Fault, strings.Join(Faults(), ", "))
	case m.Status != 0 && (m.Status < 200 || m.Status > 599):
		return wrong("status", "%d is not an HTTP status of an answer; use 200 to 599", m.Status)
	case m.Fault != "" && m.Status != 0:
		return wrong("fault", "is set beside status; use one of them")
	case m.ErrorCode != "" && m.Status == 0:
		return wrong("error_code", "goes with a status; set one")
	case m.RetryAfter != "" && m.Status == 0:
		return wrong("retry_after", "goes with a status; set one, such as 429 or 503")
	case m.RateLimitResetIn != 0 && m.Status == 0:
		return wrong("rate_limit_reset_in", "goes with a status; set one, such as 429")
	case within == "":
		return m.checkInner()
	case m.ClientSecret != "":
		return wrong("client_secret", "is that of the client; set it outside of users and paths")
	case m.Users != nil:
		return wrong("users", "cannot stand within users or paths")
	case m.Paths != nil:
		return wrong("paths", "cannot stand within users or paths")
	default:
		return nil
	}
}

func (m Mood) checkInner() error {
	for user, own := range m.Users {
		if err := own.check("users." + user + "."); err != nil {
			return err
		}
	}
	for path, own := range m.Paths {
		if !slices.Contains(tokenPaths, path) {
			return fieldError{"paths", fmt.Sprintf("%q is not a call; use %s", path, strings.Join(tokenPaths, " or "))}
		}
		if err := own.check("paths." + path + "."); err != nil {
			return err
		}
	}
	return nil
}

// readMood reads and checks the body of PUT /sandbox.
func readMood(body io.Reader) (mood Mood, err error) {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	err = dec.Decode(&mood)
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return mood, fieldError{wrongType.Field, fmt.Sprintf("takes %s, not %s", takes(wrongType.Type), wrongType.Value)}
	case err != nil:
		if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return mood, fieldError{strings.Trim(name, `"`), "is not a field of the sandbox; see GET /sandbox and docs/sandbox.md"}
		}
		return mood, fieldError{"body", "is not a JSON object: " + err.Error()}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return mood, fieldError{"body", "goes on after the JSON object"}
	}
	return mood, mood.check("")
}

// takes says what a field of that type takes, in terms of JSON.
func takes(field reflect.Type) string {
	switch field.Kind() {
	case reflect.Int:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	default:
		return "an object"
	}
}

// show answers GET /sandbox.
func (s *Sandbox) show(w http.ResponseWriter, r *http.Request) {
	answer := map[string]any{"mood": s.shown(), "counts": s.Counts(), "faults": Faults()}
	if query := r.URL.Query(); query.Has("client_user_id") {
		answer["calls_of_user"] = s.CallsOf(query.Get("client_user_id"))
	}
	reply(w, http.StatusOK, answer)
}

// shown returns the mood without the client secret.
func (s *Sandbox) shown() Mood {
	mood := s.current()
	mood.ClientSecret = ""
	return mood
}

// set answers PUT /sandbox.
func (s *Sandbox) set(w http.ResponseWriter, r *http.Request) {
	mood, err := readMood(http.MaxBytesReader(w, r.Body, 64<<10))
	if wrong, ok := errors.AsType[fieldError](err); ok {
		reply(w, http.StatusBadRequest, map[string]string{"field": wrong.field, "message": err.Error()})
		return
	}
	s.Set(mood)
	w.WriteHeader(http.StatusNoContent)
}

// Fields lists the fields of a mood, by the names that PUT /sandbox accepts.
func Fields() (names []string) {
	for field := range reflect.TypeFor[Mood]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}
