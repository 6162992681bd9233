package proxy

import (
	"net/http"

	"token-sidecar/internal/jsonobject"
)

// parseJSON reads a JSON object whose values are strings and lists of strings.
func (f *fields) parseJSON(body string) error {
	s := jsonobject.New(body)
	for s.Next() {
		if err := f.setJSON(s.Name(), s.Value()); err != nil {
			return err
		}
	}
	switch {
	case s.Err() == nil:
		return nil
	case s.Name() != "":
		return invalid(s.Name(), "has a value that is not JSON")
	default:
		return &apiError{http.StatusBadRequest, codeInvalid, "the body " + s.Err().Error()}
	}
}

func (f *fields) setJSON(name string, value jsonobject.Value) error {
	text, ok := f.textOf(name, value)
	_, bit := f.place(name)
	switch {
	case bit == seenScopes && (!ok || text != "" || !f.dropIn):
		return f.setScopes(value)
	case ok:
		return f.set(name, text)
	case bit == 0:
		return unknownField(name)
	case f.dropIn:
		return invalid(name, "is neither a text nor a whole number")
	default:
		return invalid(name, "is not a text")
	}
}

// textOf returns the string that value stands for. The auth service's own clients also send numbers, and null for unset
// fields.
func (f *fields) textOf(name string, value jsonobject.Value) (text string, ok bool) {
	if text, ok = value.Text(); ok || !f.dropIn {
		return text, ok
	}
	if value.IsNull() || name == nameSecret {
		return "", true
	}
	return value.Digits()
}

func (f *fields) setScopes(value jsonobject.Value) error {
	if err := f.once(seenScopes, nameScopes); err != nil {
		return err
	}
	scopes, ok := value.Texts()
	if !ok {
		return invalid(nameScopes, "is not a list of texts")
	}
	for _, scope := range scopes {
		if err := f.addScope(scope); err != nil {
			return err
		}
	}
	return nil
}
