package test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
	"token-sidecar/internal/tracing"
)

// TestSettingsDoc: docs/settings.md has a row for each setting, with what the program knows about it and when to change
// it, and no other row.
func TestSettingsDoc(t *testing.T) {
	doc := testbed.ReadFile(t, "docs/settings.md")
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)`.*$").FindAllStringSubmatch(doc, -1) {
		if rows[row[1]] != "" {
			t.Errorf("%s has two rows", row[1])
		}
		rows[row[1]] = row[0]
	}
	s, _ := settings.Load(nil)
	for _, setting := range s.List(nil) {
		value := setting.Default
		if value != "" {
			value = "`" + value + "`"
		}
		want := fmt.Sprintf("| `%s` | %s | %s | %s | ", setting.Name, value, setting.Takes, setting.Doc)
		if when, found := strings.CutPrefix(rows[setting.Name], want); !found || len(when) < 10 {
			t.Errorf("the row of %s should be\n%sand when to change it; it is\n%s", setting.Name, want, rows[setting.Name])
		}
		delete(rows, setting.Name)
	}
	for _, name := range tracing.Variables() {
		if !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("%s is not there", name)
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("%s is no setting", name)
	}
}
