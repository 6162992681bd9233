package sandbox

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A refusal is one of the documented errors. It answers every field that any of the company's services is
// known to answer.
type refusal struct {
	status  int
	code    string
	message string
}

func (no *refusal) write(w http.ResponseWriter) {
	id := rand.Text()
	w.Header().Set("X-Humanapi-Request-Id", id)
	body := map[string]any{
		"statusCode": no.status, "code": no.status, "error": http.StatusText(no.status), "errorCode": no.code,
		"message": no.message, "x-humanapi-request-id": id,
	}
	if no.code == "" {
		delete(body, "errorCode")
		body["validation"] = map[string]any{"keys": []string{no.message}}
		body["message"] = "validation failed"
	}
	reply(w, no.status, body)
}

// check returns the first reason to refuse req, nil when there is none.
func (s *Sandbox) check(path string, req request, parsed bool, mood Mood) *refusal {
	if missing := req.missing(parsed); missing != "" {
		return &refusal{status: http.StatusBadRequest, message: missing}
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
		return &refusal{http.StatusBadRequest, "INVALID_TOKEN_TYPE", "type must be " + strings.Join(known, ", ")}
	case req.ClientID != s.clientID:
		return &refusal{http.StatusUnauthorized, "INVALID_CLIENT_ID", "there is no such client"}
	case subtle.ConstantTimeCompare([]byte(req.ClientSecret), []byte(secret)) != 1:
		return &refusal{http.StatusUnauthorized, "INVALID_CLIENT_ID_OR_SECRET", "client_id and client_secret do not match"}
	case strings.HasPrefix(req.UserID, "forbidden-"):
		return &refusal{http.StatusForbidden, "NOT_AUTHORIZED", "the client may not act for this user"}
	case req.Type == "client" && mood.RefuseClientTokens:
		return &refusal{http.StatusForbidden, "CLIENT_TOKEN_GENERATION_NOT_ALLOWED", "the client may not have client tokens"}
	case strings.HasPrefix(req.UserID, "unknown-"):
		return &refusal{http.StatusNotFound, "UNKNOWN_CLIENT_USER_ID", "there is no such user"}
	case strings.HasPrefix(req.UserID, "unconnected-"):
		return &refusal{http.StatusForbidden, "ACCESS_TOKEN_GENERATION_NOT_ALLOWED", "the user has not connected a source"}
	}
	return nil
}

// missing names the first field that req lacks.
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
