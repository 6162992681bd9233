package secret

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"token-sidecar/internal/reason"
)

// Generate writes a random secret to the file that setting names, for other processes to read, if it is [Vacant]. Any
// other file stays as it is, so that a restarted process does not lock out those who have read it; the error says why
// it cannot be read.
func Generate(setting, path string) error {
	_, _, err := (&File{path: path}).read()
	if isVacant(err) {
		err = writeWhole(path, rand.Text())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", setting, err)
	}
	return nil
}

// Vacant reports whether there is no file at path, or an empty one.
func Vacant(path string) bool {
	_, _, err := (&File{path: path}).read()
	return isVacant(err)
}

// isVacant is about the error of reading a file.
func isVacant(err error) bool { return errors.Is(err, errMissing) || errors.Is(err, errEmpty) }

// writeWhole writes a file atomically: nobody reads half of it.
func writeWhole(path, content string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".secret-*")
	if err != nil {
		return unwritable(err)
	}
	_, err = file.WriteString(content)
	// Who may read it is decided by mounting the volume; readers may have other user ids than ours.
	err = errors.Join(err, file.Chmod(0o444), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return unwritable(err)
}

// unwritable says why the file cannot be written, without the path. It is nil for nil.
func unwritable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the file cannot be written: %s; mount a volume there that user %d may write",
		reason.Of(err), os.Getuid())
}
