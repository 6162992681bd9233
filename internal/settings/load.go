package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"

	"token-sidecar/internal/secret"
)

// Load reads the settings from environ, which has the format of [os.Environ], and checks them, but not the content of
// the files that they name. Values are trimmed as by [secret.Trim]; an empty one counts as not set. The error is made
// by [Join].
func Load(environ []string) (Settings, error) {
	s, mistakes := parse(environ)
	// A setting that could not be parsed has its zero value; checking that would produce a misleading message.
	err := Add(Join(mistakes...), errors.Join(s.mistakes()...))
	s.AuthURL = strings.TrimRight(s.AuthURL, "/")
	return s, err
}

// LoadOnly reads these settings and uses the defaults for all others, for commands that ask a running sidecar. It
// checks only the addresses.
func LoadOnly(environ []string, names ...string) (Settings, error) {
	wanted := slices.DeleteFunc(slices.Clone(environ), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return !slices.Contains(names, name)
	})
	s, mistakes := parse(wanted)
	return s, Join(append(mistakes, s.addressMistakes()...)...)
}

func parse(environ []string) (Settings, []error) {
	given := env.ToMap(environ)
	for name, value := range given {
		if given[name] = secret.Trim(value); given[name] == "" {
			delete(given, name)
		}
	}
	s, err := env.ParseAsWithOptions[Settings](env.Options{
		Environment: given,
		FuncMap: map[reflect.Type]env.ParserFunc{
			reflect.TypeFor[secret.Text](): func(v string) (any, error) { return secret.Hide(v), nil },
			reflect.TypeFor[slog.Level]():  func(v string) (any, error) { return parseLevel(v) },
		},
	})
	for i, kind := range s.AllowedTypes {
		s.AllowedTypes[i] = strings.TrimSpace(kind)
	}
	return s, parseMistakes(err)
}

// parseMistakes replaces the names of struct fields in the library's errors with the names of settings, and its
// parsers' messages with the values that a setting takes.
func parseMistakes(err error) (mistakes []error) {
	if err == nil {
		return nil
	}
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []error{err}
	}
	for _, e := range all.Errors {
		var wrong env.ParseError
		if !errors.As(e, &wrong) {
			mistakes = append(mistakes, e)
			continue
		}
		field, _ := reflect.TypeFor[Settings]().FieldByName(wrong.Name)
		mistakes = append(mistakes, fmt.Errorf("%s: is not understood; use %s", field.Tag.Get("env"), takes(field)))
	}
	return mistakes
}

var errLevel = errors.New("no level")

func parseLevel(v string) (slog.Level, error) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(v, level.String()) {
			return level, nil
		}
	}
	return 0, errLevel
}
