// Package smallfile reads and changes the small text files of a guest: records and what lies in
// /etc. Who wrote them is not known, so that all reading is bounded.
package smallfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxUpdateBytes is how large a file may be that is changed: an /etc/hosts that blocks advertisers
// has some megabytes.
const maxUpdateBytes = 8 << 20

// ErrTooLong says that a file is longer than it may be.
var ErrTooLong = errors.New("too long")

// Read reads a whole file of at most max bytes.
func Read(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("read %s: %w: more than %d bytes", path, ErrTooLong, max)
	}
	return b, nil
}

// Update writes what change makes of a file, if that differs; a missing file is an empty one. A
// symlink is replaced by a file, for its target may lie outside of the root. Readers see the old
// content or the new one, whole.
func Update(path string, mode os.FileMode, change func(old []byte) []byte) error {
	var old []byte
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case info.Mode().IsRegular():
		if old, err = Read(path, maxUpdateBytes); err != nil {
			return err
		}
	case info.IsDir():
		return fmt.Errorf("%s: is a directory", path)
	}
	fresh := change(old)
	if info != nil && info.Mode().IsRegular() && bytes.Equal(fresh, old) {
		return nil
	}
	temp := path + ".banger"
	if err := os.WriteFile(temp, fresh, mode); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
