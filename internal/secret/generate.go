package secret

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Generate writes a random secret to the file that setting names, for other processes to read. A file with content
// stays as it is, so that a restarted process does not lock out those who have read it.
func Generate(setting, path string) error {
	existing := &File{path: path}
	if _, err := existing.read(); err == nil {
		return nil
	}
	if err := writeWhole(path, rand.Text()); err != nil {
		return fmt.Errorf("%s: cannot write the file: %w", setting, err)
	}
	return nil
}

// writeWhole writes a file atomically: nobody reads half of it.
func writeWhole(path, content string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".secret-*")
	if err != nil {
		return err
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
	return err
}
