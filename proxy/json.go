package proxy

import (
	"net/http"
	"token-sidecar/internal/jsonobject"
)

// parseJSON reads an object of texts and lists of texts.
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
		return invalid(s.Name(), "has a value that is no JSON")
	default:
		return &apiError{http.StatusBadRequest, codeInvalid, "the body " + s.Err().Error()}
	}
}

func (f *fields) setJSON(name string, value jsonobject.Value) error {
	if name == "extra_scopes" {
		return f.setScopes(name, value)
	}
	text, ok := value.Text()
	if err := f.set(name, text); err != nil || ok { // an unknown field is told as such, whatever its value
		return err
	}
	return invalid(name, "is not a text")
}

func (f *fields) setScopes(name string, value jsonobject.Value) error {
	if err := f.once(seenScopes, name); err != nil {
		return err
	}
	scopes, ok := value.Texts()
	if !ok {
		return invalid(name, "is not a list of texts")
	}
	for _, scope := range scopes {
		if err := f.set(name, scope); err != nil {
			return err
		}
	}
	return nil
}
