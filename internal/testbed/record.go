package testbed

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Record writes a row of a table into the document at path, replacing the row of that name; with an empty path it does
// nothing. A row ends with a comment that contains its name.
func Record(t testing.TB, path, name, row string) {
	t.Helper()
	if path == "" {
		return
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mark := "<!-- " + name + " -->"
	line := regexp.MustCompile(`(?m)^.*` + regexp.QuoteMeta(mark) + `$`)
	if !line.Match(content) {
		t.Fatalf("%s has no row %s", path, mark)
	}
	content = line.ReplaceAllLiteral(content, []byte(strings.TrimSpace(row)+" "+mark))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
