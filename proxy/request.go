package proxy

import (
	"slices"
	"strings"
	"unicode/utf8"

	"token-sidecar/internal/secret"
	"token-sidecar/upstream"
)

// The names of fields with rules of their own.
const (
	nameScopes = "extra_scopes"  // a list
	nameSecret = "client_secret" // ignored, whatever its value: the sidecar sends its own
)

// maxField bounds the value of each field, in bytes.
const maxField = 256

// The types of tokens, as the auth service spells them.
const (
	typeAccess  = "access"
	typeClient  = "client"
	typeSession = "session"
)

// fields are the fields of one request, as the caller sent them. Each may occur once, except extra_scopes in a query or
// form.
type fields struct {
	userID, email, tokenType, clientID string

	scopes []string
	seen   uint8
	// dropIn is for the auth service's own calls, whose clients also send fields that are superfluous or empty.
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

// place returns where the text of a field is stored, nil if it is not, and the bit that stands for the field, 0 for an
// unknown name.
func (f *fields) place(name string) (text *string, bit uint8) {
	switch {
	case name == "client_user_id":
		return &f.userID, seenUser
	case name == "type":
		return &f.tokenType, seenType
	case name == "client_user_email":
		return &f.email, seenEmail
	case name == nameScopes:
		return nil, seenScopes
	case name == "client_id" && f.dropIn:
		return &f.clientID, seenClientID
	case name == nameSecret && f.dropIn:
		return nil, seenClientSecret
	default:
		return nil, 0
	}
}

// set stores one text field.
func (f *fields) set(name, value string) error {
	text, bit := f.place(name)
	notSent := f.dropIn && value == ""
	switch {
	case bit == 0 && notSent:
		return nil
	case bit == 0:
		return unknownField(name)
	case bit == seenScopes && notSent:
		return nil
	case bit == seenScopes:
		return f.addScope(value)
	}
	if err := f.once(bit, name); err != nil || text == nil {
		return err
	}
	if problem := checkText(value); problem != "" {
		return invalid(name, problem)
	}
	*text = value
	return nil
}

func (f *fields) addScope(value string) error {
	if problem := checkText(value); problem != "" {
		return invalid(nameScopes, problem)
	}
	f.scopes = append(f.scopes, value)
	return nil
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

// token checks f and returns the request for the auth service.
func (f *fields) token(path string) (upstream.Request, error) {
	kind := f.tokenType
	switch {
	case kind != "":
	case f.seen&seenType != 0 && !f.dropIn:
		return upstream.Request{}, invalid("type", "is empty; leave it out or name one")
	case path == upstream.AdminPath && f.seen&seenUser == 0 && !f.dropIn:
		kind = typeClient
	default:
		kind = typeAccess
	}
	switch kind {
	case typeAccess, "id", "id_token", typeSession:
	case typeClient:
		path = upstream.AdminPath
	default:
		return upstream.Request{}, errTokenType
	}
	switch {
	case f.userID == "" && kind != typeClient:
		return upstream.Request{}, invalid("client_user_id", "is missing or empty; name the user whose token is wanted")
	case kind != typeSession && f.seen&seenEmail != 0 && !f.dropIn:
		return upstream.Request{}, invalid("client_user_email", "goes with type session only")
	case slices.Contains(f.scopes, ""):
		return upstream.Request{}, invalid(nameScopes, "holds an empty text")
	}
	if len(f.scopes) > 1 {
		slices.Sort(f.scopes)
		f.scopes = slices.Compact(f.scopes)
	}
	req := upstream.Request{Path: path, Type: kind, UserID: secret.Hide(f.userID), Scopes: f.scopes}
	if kind == typeSession && f.email != "" {
		req.Email = secret.Hide(f.email)
	}
	return req, nil
}
