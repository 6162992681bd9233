package settings

import (
	"errors"
	"reflect"
	"slices"
	"strings"
)

// Join makes one error of all mistakes, in the order of the settings; nil if there are none. Each mistake begins with
// the name of its setting and a colon. It tells no value: what is not understood could be a secret that was pasted into
// the wrong place.
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
		return len(order) // not ours: OTEL_*
	}
	slices.SortStableFunc(all, func(a, b error) int { return rank(a) - rank(b) })
	return errors.Join(all...)
}

// Add adds mistakes that were found later to known, which [Join] made, but none to a setting that is known to be wrong.
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

// Wrong returns the names of the settings that err, made by [Join], is about.
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

// nameIn is the setting that a mistake is about.
func nameIn(mistake error) string {
	name, _, _ := strings.Cut(mistake.Error(), ":")
	return name
}

// names are those of all settings.
func names() (all []string) {
	for field := range reflect.TypeFor[Settings]().Fields() {
		all = append(all, field.Tag.Get("env"))
	}
	return all
}
