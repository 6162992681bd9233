package charts

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/settings"
)

// byValue are the settings for which the chart has a value, with the names of the values.
func byValue() map[string]string {
	return map[string]string{
		"ADMIN_ADDR": "ports.admin", "AUDIT_KEY_FILE": "audit.existingSecret", "AUDIT_LOG": "audit.log",
		"CALLER_TOKEN_FILE": "callerToken.existingSecret", "CALLER_TOKEN_GENERATE": "callerToken.generate",
		"ENCRYPTION_KEYS_FILE": "encryptionKeys.existingSecret", "HUMANAPI_AUTH_URL": "humanapi.authUrl",
		"HUMANAPI_CA_FILE": "humanapi.ca", "HUMANAPI_CLIENT_ID": "humanapi.clientId",
		"HUMANAPI_CLIENT_SECRET": "humanapi.existingSecret", "HUMANAPI_CLIENT_SECRET_FILE": "humanapi.existingSecret",
		"HUMANAPI_PRODUCT": "humanapi.product", "LISTEN_ADDR": "ports.token or socket", "REDIS_CA_FILE": "redis.ca",
		"REDIS_MODE": "redis.mode", "REDIS_PASSWORD_FILE": "redis.existingSecret", "REDIS_URL": "redis.url",
	}
}

// TestSettingsFile: the chart knows the program's settings and what each accepts.
func TestSettingsFile(t *testing.T) {
	want := "# The settings, as internal/settings has them; made by make golden. Those with a value of their own in the chart name it.\n"
	for field := range reflect.TypeFor[settings.Settings]().Fields() {
		name := field.Tag.Get("env")
		var rule string
		if value := byValue()[name]; value != "" {
			rule = "value: " + value
		} else {
			rule = ruleOf(t, field)
		}
		if name == "ALLOW_REMOTE_CALLERS" { // the sidecar is for its own pod
			rule = `kind: word, of: ["false"]`
		}
		want += fmt.Sprintf("%s: {%s}\n", name, rule)
	}
	compare(t, filepath.Join(sidecar, "files/settings.yaml"), want)
	_, environ, err := sidecarOf(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if found := newProgram(t).mistakes(environ); len(found) != 0 {
		t.Errorf("the chart's defaults: %v", found)
	}
}

// ruleOf describes what a setting accepts.
func ruleOf(t *testing.T, field reflect.StructField) string {
	t.Helper()
	bounds := ""
	if least := field.Tag.Get("min"); least != "" {
		bounds = ", least: " + least + ", most: " + field.Tag.Get("max")
	}
	switch field.Type {
	case reflect.TypeFor[time.Duration]():
		return "kind: duration" + bounds
	case reflect.TypeFor[int]():
		return "kind: number" + bounds
	case reflect.TypeFor[settings.Size]():
		return "kind: size" + bounds
	case reflect.TypeFor[bool]():
		return `kind: word, of: ["true", "false"]`
	case reflect.TypeFor[slog.Level](), reflect.TypeFor[string]():
		if field.Tag.Get("oneOf") != "" {
			return "kind: word, of: [" + strings.ReplaceAll(field.Tag.Get("oneOf"), ",", ", ") + "]"
		}
	case reflect.TypeFor[[]string]():
		return "kind: words, of: [" + strings.ReplaceAll(field.Tag.Get("oneOf"), ",", ", ") + "]"
	}
	t.Errorf("%s has no value in the chart", field.Tag.Get("env"))
	return ""
}
