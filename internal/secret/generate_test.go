package secret

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGenerate: a secret is generated once, everybody who has the file can read it, and nothing else is left behind.
func TestGenerate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	if err := Generate("TOKEN", path); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil || len(first) < 26 {
		t.Fatalf("%d bytes, %v", len(first), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o444 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := Generate("TOKEN", path); err != nil {
		t.Error(err)
	}
	if second, _ := os.ReadFile(path); string(second) != string(first) {
		t.Error("a second start made another one")
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Generate("TOKEN", other); err != nil {
		t.Error(err)
	}
	if third, _ := os.ReadFile(other); len(third) < 26 || string(third) == string(first) {
		t.Errorf("an empty file became %d bytes", len(third))
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("%v", files)
	}
	for _, path := range []string{filepath.Join(dir, "none", "token"), dir} {
		if err := Generate("TOKEN", path); err == nil {
			t.Errorf("%s was written", path)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("left behind: %v", files)
	}
}
