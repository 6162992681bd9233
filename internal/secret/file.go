package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"token-sidecar/internal/reason"
)

// maxFileSize bounds how much of a file is read, in bytes. All certificates that a system trusts are about 250 KB.
const maxFileSize = 1 << 20

// pollInterval is how often a watched file is read again. It is polled because Kubernetes swaps a symlink two levels
// above the file, which inotify on the file does not report; and reading a few bytes costs nothing.
const pollInterval = time.Second

// settle is for how long new content must have been there before it takes effect. Whoever writes a file in pieces does
// not pause for that long.
const settle = 100 * time.Millisecond

// A File is a secret in a file that may be replaced while the program runs. Its value is the content, trimmed as by
// [Trim]. New content takes effect once it has been there for a tenth of a second, so that a half-written file has no
// effect. If the file becomes empty, unreadable or unacceptable, the old value stays; that is logged once for each such
// state.
//
// The zero File is not usable; see [Open] and [Fixed]. Methods may be called concurrently.
type File struct {
	path    string
	setting string
	accept  func(string) error
	log     *slog.Logger
	value   atomic.Pointer[Text]

	mu       sync.Mutex  // guards the following and orders reloads
	seen     Text        // content of the last read, empty if that failed
	seenAt   time.Time   // when it was read first
	last     fs.FileInfo // of the last file that could be read
	complain string
	changed  []func()
}

// Fixed returns a File that never changes, for secrets from the environment.
func Fixed(content string) *File {
	f := &File{}
	f.set(content)
	return f
}

// Open reads the file that setting names. accept, if not nil, rejects unusable content; its error must not contain the
// content. Errors name the setting and the remedy.
func Open(setting, path string, accept func(string) error, log *slog.Logger) (*File, error) {
	f := &File{path: path, setting: setting, accept: accept, log: log}
	content, info, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	f.set(content)
	f.last = info
	return f, nil
}

// Text returns the current value.
func (f *File) Text() Text { return *f.value.Load() }

// OnChange registers fn to be called after each change, from the goroutine that noticed it.
func (f *File) OnChange(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = append(f.changed, fn)
}

// Watch reads the file again every second until ctx ends.
func (f *File) Watch(ctx context.Context) {
	if f.path == "" {
		return
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.Reload()
		}
	}
}

// Reload reads the file. If there is new content that may be incomplete, it waits and reads once more; it takes little
// more than a tenth of a second.
func (f *File) Reload() {
	if settled, _ := f.reload(false); !settled {
		time.Sleep(settle) // without the lock: all who call it wait together
		_, _ = f.reload(false)
	}
}

// ReadNow is Reload for a file that is known to be complete: it does not wait. The error says why it cannot be used.
func (f *File) ReadNow() error {
	_, err := f.reload(true)
	return err
}

// reload reads the file once. settled is false if its content may be incomplete; it has no effect then.
func (f *File) reload(complete bool) (settled bool, err error) {
	if f.path == "" {
		return true, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	content, info, err := f.read()
	if err != nil {
		f.seen = Text{}
		if f.complain != err.Error() {
			f.complain = err.Error()
			f.log.Warn("secret file cannot be used, the old value stays in force; write a complete file",
				slog.String("setting", f.setting), slog.Any("error", err))
		}
		return true, err
	}
	f.complain = ""
	if !Equal(f.seen, content) {
		f.seen, f.seenAt = Hide(content), time.Now()
	}
	// Another file in the place of the last one, which nobody has written to of late, was moved there complete.
	moved := !os.SameFile(f.last, info) && now.Sub(info.ModTime()) >= settle
	f.last = info
	switch {
	case Equal(f.Text(), content):
		return true, nil
	case !complete && !moved && now.Sub(f.seenAt) < settle:
		return false, nil
	}
	f.set(content)
	f.log.Info("secret file changed, the new value is in force", slog.String("setting", f.setting))
	for _, fn := range f.changed {
		fn()
	}
	return true, nil
}

func (f *File) set(content string) {
	text := Hide(content)
	f.value.Store(&text)
}

var (
	errMissing = errors.New("the file is not there; mount it, or correct the path")
	errEmpty   = errors.New("the file is empty; write the value into it")
)

// unreadable says why the file cannot be read, and what to do. It omits the path, which could be the secret itself, set
// as the file's name by mistake.
func unreadable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errMissing
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the file may not be read; let user %d read it", os.Getuid())
	case errors.Is(err, syscall.EISDIR):
		return errors.New("it is a folder; name the file in it")
	default:
		return fmt.Errorf("the file cannot be read: %s; correct the path", reason.Of(err))
	}
}

// read returns the content, trimmed and accepted, and the file's state afterwards.
func (f *File) read() (content string, info fs.FileInfo, err error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would be waited for
	if err != nil {
		return "", nil, unreadable(err)
	}
	defer func() { _ = file.Close() }()
	if info, err = file.Stat(); err != nil || !info.Mode().IsRegular() && !info.IsDir() {
		return "", nil, errors.New("it is a pipe or a device, which does not keep its content; write the value into a file")
	}
	raw, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return "", nil, unreadable(err)
	}
	if len(raw) > maxFileSize {
		return "", nil, errors.New("the file is larger than 1 MiB; name the right one")
	}
	content = Trim(string(raw))
	if content == "" {
		return "", nil, errEmpty
	}
	if f.accept != nil {
		if err := f.accept(content); err != nil {
			return "", nil, err
		}
	}
	if info, err = file.Stat(); err != nil { // again, to learn of a write meanwhile
		return "", nil, unreadable(err)
	}
	return content, info, nil
}
