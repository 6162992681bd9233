package proxy

import (
	"slices"
	"strings"
	"token-sidecar/internal/secret"
	"token-sidecar/upstream"
	"unicode/utf8"
)

// maxField bounds the value of each field, in bytes.
const maxField = 256

// The types of tokens, as the auth service spells them.
const (
	typeAccess  = "access"
	typeClient  = "client"
	typeSession = "session"
)

// fields are those of one request, as the caller sent them. Each may come once, extra_scopes in a query or
// form more often.
type fields struct {
	userID, email, tokenType, clientID string

	scopes []string
	seen   uint8
	// dropIn allows the fields that only the auth service's own calls have.
	dropIn bool
}

const (
	seenUser uint8 = 1 << iota
	seenType
	seenEmail
	seenScopes
	seenClientID
	seenClientSecret
)

// set takes one field that is a text.
func (f *fields) set(name, value string) error {
	if problem := checkText(value); problem != "" {
		return invalid(name, problem)
	}
	switch {
	case name == "client_user_id":
		f.userID = value
		return f.once(seenUser, name)
	case name == "type":
		f.tokenType = value
		return f.once(seenType, name)
	case name == "client_user_email":
		f.email = value
		return f.once(seenEmail, name)
	case name == "client_id" && f.dropIn:
		f.clientID = value
		return f.once(seenClientID, name)
	case name == "client_secret" && f.dropIn:
		return f.once(seenClientSecret, name) // the sidecar's own is sent instead
	case name == "extra_scopes":
		f.scopes = append(f.scopes, value)
		return nil
	default:
		return unknownField(name)
	}
}

func (f *fields) once(bit uint8, name string) error {
	if f.seen&bit != 0 {
		return invalid(name, "is repeated; send it once")
	}
	f.seen |= bit
	return nil
}

func checkText(value string) string {
	switch {
	case len(value) > maxField:
		return "is longer than 256 bytes"
	case !utf8.ValidString(value), strings.ContainsRune(value, utf8.RuneError):
		return "is not valid UTF-8"
	case strings.IndexByte(value, 0) >= 0:
		return "holds a NUL byte"
	default:
		return ""
	}
}

// token checks f and makes of it the request for the auth service.
func (f *fields) token(path string) (upstream.Request, error) {
	kind := f.tokenType
	switch kind {
	case "":
		if f.seen&seenType != 0 {
			return upstream.Request{}, invalid("type", "is empty; leave it out or name one")
		}
		kind = typeAccess
	case typeAccess, "id", "id_token", typeSession:
	case typeClient:
		path = upstream.AdminPath
	default:
		return upstream.Request{}, errTokenType
	}
	switch {
	case f.userID == "" && kind != typeClient:
		return upstream.Request{}, invalid("client_user_id", "is missing or empty; name the user whose token is wanted")
	case kind != typeSession && f.seen&seenEmail != 0:
		return upstream.Request{}, invalid("client_user_email", "goes with type session only")
	case slices.Contains(f.scopes, ""):
		return upstream.Request{}, invalid("extra_scopes", "holds an empty text")
	}
	if len(f.scopes) > 1 {
		slices.Sort(f.scopes)
		f.scopes = slices.Compact(f.scopes)
	}
	req := upstream.Request{Path: path, Type: kind, UserID: secret.Hide(f.userID), Scopes: f.scopes}
	if f.email != "" {
		req.Email = secret.Hide(f.email)
	}
	return req, nil
}
