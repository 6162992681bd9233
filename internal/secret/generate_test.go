package secret

import (
	"os"
	"path/filepath"
	"strings"
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

// TestGenerateKeepsWhatItCannotRead: a token that others may have read is not replaced because of a fault in reading it.
func TestGenerateKeepsWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil { // stands for a fault of the volume
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{loop, large, dir, large + "/token"} {
		before, _ := os.Lstat(path)
		err := Generate("TOKEN", path)
		if err == nil || !strings.HasPrefix(err.Error(), "TOKEN: ") || !strings.Contains(err.Error(), "; ") ||
			strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", path, err)
		}
		if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
			t.Errorf("%s was replaced", path)
		}
		if Vacant(path) {
			t.Errorf("%s may be written", path)
		}
	}
}
