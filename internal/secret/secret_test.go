package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	s := Hide("s3cr3t")
	fmt.Println(s, s.Reveal())
	// Output: [hidden] s3cr3t
}

// holder hides nothing itself.
type holder struct {
	Exported   Text
	unexported Text
	bytes      Value[[]byte]
	nested     struct{ list []Text }
}

func TestNoPrinterShowsIt(t *testing.T) {
	h := holder{Exported: Hide("s3cr3t"), unexported: Hide("s3cr3t"), bytes: Hide([]byte("s3cr3t"))}
	h.nested.list = []Text{Hide("s3cr3t")}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", h, &h, h.Exported)
	}
	fmt.Fprintln(&out, h, h.Exported, errors.Join(fmt.Errorf("%v", h)))
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(handler).Info("x", "h", h, "s", h.Exported, "p", &h, slog.Any("b", h.bytes))
	}
	js, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(js)
	text, _ := h.Exported.MarshalText()
	out.Write(text)
	for _, form := range []string{
		"s3cr3t", fmt.Sprintf("%x", "s3cr3t"), fmt.Sprintf("%X", "s3cr3t"),
		fmt.Sprint(string([]byte("s3cr3t"))),
	} {
		if strings.Contains(out.String(), form) {
			t.Errorf("printed as %q", form)
		}
	}
}

func TestZeroValue(t *testing.T) {
	if (Text{}).Reveal() != "" || !Equal(Text{}, "") || Equal(Hide("a"), "b") || !Equal(Hide("a"), "a") {
		t.Error("the zero Text is not empty, or Equal is wrong")
	}
}

func TestReplaceAttrIsASecondNet(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: ReplaceAttr}))
	log.Info("m", "client_secret", "x1", "accessToken", "x2", "client_user_id", "x3", "Authorization", "x4",
		"redis_url", "x5", slog.Group("g", "password", "x6"), "status", 404)
	for i := range 6 {
		if strings.Contains(out.String(), fmt.Sprint("x", i+1)) {
			t.Errorf("x%d in %s", i+1, &out)
		}
	}
	if !strings.Contains(out.String(), "404") {
		t.Error("it hides too much")
	}
}

func TestTrim(t *testing.T) {
	for _, before := range []string{"", " ", "\ufeff", "\ufeff \ufeff", "\r\n\t"} {
		for _, after := range []string{"", "\n", "\r\n", " \ufeff", "\u00a0\v\f"} {
			for _, inside := range []string{"s3cr3t", "s3 \r\n\ufeffcr3t", "\xff\x85", ""} {
				if got := Trim(before + inside + after); got != inside {
					t.Errorf("%q + %q + %q became %q", before, inside, after, got)
				}
			}
		}
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	accept := func(content string) error {
		if strings.Contains(content, "bad") {
			return errors.New("it is bad")
		}
		return nil
	}
	if _, err := Open("SETTING", path, accept, logger); err == nil || !strings.HasPrefix(err.Error(), "SETTING: ") {
		t.Errorf("a missing file: %v", err)
	}
	write(" \n")
	if _, err := Open("SETTING", path, accept, logger); err == nil {
		t.Error("an empty file was taken")
	}
	write(" one\n")
	f, err := Open("SETTING", path, accept, logger)
	if err != nil {
		t.Fatal(err)
	}
	changes := 0
	f.OnChange(func() { changes++ })
	expect := func(want string, wantChanges int, complaint string) {
		t.Helper()
		if got := f.Text().Reveal(); got != want || changes != wantChanges {
			t.Errorf("%q after %d changes, want %q after %d", got, changes, want, wantChanges)
		}
		if (complaint == "") != !strings.Contains(log.String(), "WARN") || !strings.Contains(log.String(), complaint) {
			t.Errorf("log: %s", &log)
		}
		log.Reset()
	}
	expect("one", 0, "")

	write("two")
	f.Reload()
	expect("two", 1, "")

	write("new")
	if err := f.ReadNow(); err != nil {
		t.Error(err)
	}
	expect("new", 2, "")
	write("two")
	_ = f.ReadNow()
	changes = 1
	expect("two", 1, "")
	write("")
	if f.ReadNow() == nil {
		t.Error("an empty file was taken")
	}
	expect("two", 1, "empty")
	f.Reload()
	expect("two", 1, "") // logged once
	write("bad")
	f.Reload()
	f.Reload()
	expect("two", 1, "it is bad")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.Reload()
	f.Reload()
	expect("two", 1, "not there")
	write(strings.Repeat("x", maxFileSize+1))
	f.Reload()
	f.Reload()
	expect("two", 1, "larger")

	// How Kubernetes replaces a mounted secret: a symlink to a directory is swapped.
	mount := t.TempDir()
	version := func(name, content string) {
		t.Helper()
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(os.Mkdir(filepath.Join(mount, name), 0o700))
		must(os.WriteFile(filepath.Join(mount, name, "secret"), []byte(content), 0o600))
		must(os.Symlink(name, filepath.Join(mount, "..data_tmp")))
		must(os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")))
	}
	version("..1", "first")
	if err := os.Symlink("..data/secret", filepath.Join(mount, "secret")); err != nil {
		t.Fatal(err)
	}
	mounted, err := Open("SETTING", filepath.Join(mount, "secret"), nil, logger)
	if err != nil {
		t.Fatal(err)
	}
	version("..2", "second")
	if err := os.RemoveAll(filepath.Join(mount, "..1")); err != nil {
		t.Fatal(err)
	}
	mounted.Reload()
	if got := mounted.Text().Reveal(); got != "second" {
		t.Errorf("after the swap: %q", got)
	}
}

// TestWhatIsReadOnce is refused at once: nobody waits for a pipe that nobody writes to, nor takes the value of one that
// is empty the second time.
func TestWhatIsReadOnce(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero", "/dev/null"} {
		if _, err := Open("A_FILE", path, nil, nil); err == nil || !strings.Contains(err.Error(), "into a file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestFixedNeverChanges(t *testing.T) {
	f := Fixed("x")
	f.Reload()
	f.Watch(t.Context())
	if f.Text().Reveal() != "x" {
		t.Error("it changed")
	}
}
