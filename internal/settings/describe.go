package settings

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"time"

	"token-sidecar/internal/secret"
)

// A Setting describes one setting; see [Settings.List].
type Setting struct {
	Name    string // of the environment variable
	Value   string // in use; secrets hidden
	Default string // as it would be set; empty for none
	Takes   string // which values it can have
	Doc     string // what it does, in one line
}

// List returns the settings in use, in the order of their declaration. Secrets are hidden, and so are wrong values (see
// [Wrong]): they could be secrets in the wrong place.
func (s Settings) List(wrong map[string]bool) []Setting {
	v := reflect.ValueOf(s)
	list := make([]Setting, 0, v.NumField())
	for field := range v.Type().Fields() {
		name, value := field.Tag.Get("env"), show(v.FieldByIndex(field.Index).Interface())
		switch {
		case value == "":
		case wrong[name]:
			value = "[wrong]"
		case name == "HUMANAPI_CLIENT_ID":
			value = beginning(value)
		}
		list = append(list, Setting{
			Name: name, Value: value, Default: field.Tag.Get("envDefault"), Takes: takes(field), Doc: field.Tag.Get("doc"),
		})
	}
	return list
}

// beginning returns enough to recognise a client_id. Any text could be one, even the client secret.
func beginning(text string) string {
	return text[:min(4, len(text)/4)] + "…"
}

func show(v any) string {
	switch v := v.(type) {
	case secret.Text:
		if v.Reveal() == "" {
			return ""
		}
		return v.String()
	case slog.Level:
		return strings.ToLower(v.String())
	case []string:
		return strings.Join(v, ",")
	case time.Duration:
		return short(v)
	default:
		return fmt.Sprint(v)
	}
}

// short formats d without units that are zero: 10m for 10m0s.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// takes says which values a setting can have.
func takes(field reflect.StructField) string {
	if allowed := choices(field); allowed != nil {
		last := len(allowed) - 1
		list := strings.Join(allowed[:last], ", ") + " or " + allowed[last]
		if field.Type.Kind() == reflect.Slice {
			return "one or more of " + list + ", separated by commas"
		}
		return list
	}
	between := ""
	if _, _, bounded := bounds(field); bounded {
		between = " from " + field.Tag.Get("min") + " to " + field.Tag.Get("max")
	}
	switch field.Type {
	case reflect.TypeFor[time.Duration]():
		return "a duration" + between
	case reflect.TypeFor[Size]():
		return "bytes, or a number with KiB, MiB or GiB," + between
	case reflect.TypeFor[int]():
		return "a whole number" + between
	case reflect.TypeFor[bool]():
		return "true or false"
	default:
		return field.Tag.Get("is")
	}
}

// choices are those in the tag oneOf, nil without it.
func choices(field reflect.StructField) []string {
	if list := field.Tag.Get("oneOf"); list != "" {
		return strings.Split(list, ",")
	}
	return nil
}

// bounds are those in the tags min and max, which occur together.
func bounds(field reflect.StructField) (least, most int64, bounded bool) {
	read := func(tag string) int64 {
		text := field.Tag.Get(tag)
		switch field.Type {
		case reflect.TypeFor[time.Duration]():
			d, _ := time.ParseDuration(text)
			return int64(d)
		case reflect.TypeFor[Size]():
			var size Size
			_ = size.UnmarshalText([]byte(text))
			return size.Bytes()
		default:
			n, _ := strconv.ParseInt(text, 10, 64)
			return n
		}
	}
	if field.Tag.Get("max") == "" {
		return 0, 0, false
	}
	return read("min"), read("max"), true
}

// Fingerprint is the same for equal settings, ignoring secrets, so that pods with different settings can be found.
func (s Settings) Fingerprint() string {
	hash := sha256.New()
	_, _ = fmt.Fprintf(hash, "%q\n", s.ClientID) // in full, unlike in List
	for _, setting := range s.List(nil) {
		_, _ = fmt.Fprintf(hash, "%s=%q\n", setting.Name, setting.Value)
	}
	return hex.EncodeToString(hash.Sum(nil)[:6])
}
