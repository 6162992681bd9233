package settings

import (
	"errors"
	"reflect"
	"slices"
	"strings"
)

// Join makes one error of all mistakes, in the order of the settings, or nil without mistakes. Each mistake begins
// with the name of its setting and a colon. It contains no value, which could be a secret in the wrong place.
func Join(mistakes ...error) error {
	var all []error
	for _, m := range mistakes {
		all = append(all, split(m)...)
	}
	order := names()
	rank := func(m error) int {
		if i := slices.Index(order, nameIn(m)); i >= 0 {
			return i
		}
		return len(order) // another's, such as OTEL_*
	}
	slices.SortStableFunc(all, func(a, b error) int { return rank(a) - rank(b) })
	return errors.Join(all...)
}

// Add adds mistakes that were found later to known, which [Join] made, except for settings that are known to be wrong.
func Add(known error, later error) error {
	wrong := Wrong(known)
	all := []error{known}
	for _, m := range split(later) {
		if !wrong[nameIn(m)] {
			all = append(all, m)
		}
	}
	return Join(all...)
}

// Wrong returns the names of the settings with mistakes in err, which [Join] made.
func Wrong(err error) map[string]bool {
	wrong := make(map[string]bool)
	for _, m := range split(err) {
		wrong[nameIn(m)] = true
	}
	return wrong
}

// split returns the errors that err joins.
func split(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, split(e)...)
	}
	return all
}

// nameIn returns the name of the setting with that mistake.
func nameIn(mistake error) string {
	name, _, _ := strings.Cut(mistake.Error(), ":")
	return name
}

// names returns the names of all settings.
func names() (all []string) {
	for field := range reflect.TypeFor[Settings]().Fields() {
		all = append(all, field.Tag.Get("env"))
	}
	return all
}
