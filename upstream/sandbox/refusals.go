package sandbox

import (
	"crypto/rand"
	"crypto/subtle"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A refusal is an answer without a token. It has every field that any of the company's services is known to send.
type refusal struct {
	status  int
	code    string // errorCode, empty for none
	message string
	// missing is the field that is missing or malformed, if that is the reason.
	missing string
	header  http.Header
	echo    string // the request, to be repeated
}

// refusal returns what m answers to every call, nil if the call decides.
func (m Mood) refusal() *refusal {
	if m.Status == 0 {
		return nil
	}
	no := &refusal{status: m.Status, code: m.ErrorCode, message: "as told by PUT /sandbox", header: http.Header{}}
	if m.RetryAfter != "" {
		no.header.Set("Retry-After", m.RetryAfter)
	}
	if m.RateLimitResetIn != 0 {
		reset := time.Now().Add(time.Duration(m.RateLimitResetIn) * time.Second)
		no.header.Set("X-Rate-Limit-Reset", strconv.FormatInt(reset.Unix(), 10))
	}
	if m.Status >= 300 && m.Status < 400 {
		no.header.Set("Location", "/v1/elsewhere")
	}
	return no
}

func (no *refusal) write(w http.ResponseWriter) {
	id := rand.Text()
	maps.Copy(w.Header(), no.header)
	w.Header().Set("X-Humanapi-Request-Id", id)
	body := map[string]any{
		"statusCode": no.status, "code": no.status, "error": http.StatusText(no.status),
		"message": no.message, "x-humanapi-request-id": id,
	}
	if no.code != "" {
		body["errorCode"] = no.code
	}
	if no.missing != "" {
		body["validation"] = map[string]any{"keys": []string{no.missing}}
	}
	if no.echo != "" {
		body["request"] = no.echo
	}
	reply(w, no.status, body)
}

// check returns the first reason to refuse req, or nil if req is acceptable.
func (s *Sandbox) check(path string, req request, parsed bool, mood Mood) *refusal {
	if missing := req.missing(parsed); missing != "" {
		return &refusal{status: http.StatusBadRequest, message: "validation failed", missing: missing}
	}
	s.mu.Lock()
	secret := s.secret
	s.mu.Unlock()
	admin := strings.HasSuffix(path, "/admin/token")
	known := []string{"access", "id", "id_token", "session"}
	if admin {
		known = []string{"access", "client"}
	}
	switch {
	case !slices.Contains(known, req.Type):
		return refuse(http.StatusBadRequest, "INVALID_TOKEN_TYPE", "type must be "+strings.Join(known, ", "))
	case req.ClientID != s.clientID:
		return refuse(http.StatusUnauthorized, "INVALID_CLIENT_ID", "there is no such client")
	case subtle.ConstantTimeCompare([]byte(req.ClientSecret), []byte(secret)) != 1:
		return refuse(http.StatusUnauthorized, "INVALID_CLIENT_ID_OR_SECRET", "client_id and client_secret do not match")
	case strings.HasPrefix(req.UserID, "forbidden-"):
		return refuse(http.StatusForbidden, "NOT_AUTHORIZED", "the client may not act for this user")
	case req.Type == "client" && mood.RefuseClientTokens:
		return refuse(http.StatusForbidden, "CLIENT_TOKEN_GENERATION_NOT_ALLOWED", "the client may not have client tokens")
	case strings.HasPrefix(req.UserID, "unknown-"):
		return refuse(http.StatusNotFound, "UNKNOWN_CLIENT_USER_ID", "there is no such user")
	case strings.HasPrefix(req.UserID, "unconnected-"):
		return refuse(http.StatusForbidden, "ACCESS_TOKEN_GENERATION_NOT_ALLOWED", "the user has not connected a source")
	}
	return nil
}

func refuse(status int, code, message string) *refusal {
	return &refusal{status: status, code: code, message: message}
}

// missing returns the first field that req lacks.
func (req request) missing(parsed bool) string {
	switch {
	case !parsed:
		return "body"
	case req.ClientID == "":
		return "client_id"
	case req.ClientSecret == "":
		return "client_secret"
	case req.Type == "":
		return "type"
	case req.UserID == "" && req.Type != "client":
		return "client_user_id"
	case req.Email == "" && req.Type == "session":
		return "client_user_email"
	default:
		return ""
	}
}

func parseForm(body string) (request, bool) {
	form, err := url.ParseQuery(body)
	return request{
		ClientID: form.Get("client_id"), ClientSecret: form.Get("client_secret"), UserID: form.Get("client_user_id"),
		Email: form.Get("client_user_email"), Type: form.Get("type"), Scopes: form["extra_scopes"],
	}, err == nil
}
