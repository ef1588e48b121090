package download

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"banger/internal/compression"
)

const (
	maxProgramBytes   = 1 << 30
	maxArchiveEntries = 100_000
	maxWindowBytes    = 128 << 20 // of a decompressor; see package compression
)

// Program is an executable, to be read once.
type Program struct {
	io.Reader
	SizeBytes int64
	content   io.Closer
	file      *os.File
}

// Close lets go of the file.
func (p *Program) Close() error { return errors.Join(p.content.Close(), p.file.Close()) }

// OpenProgram finds the executable of that name in a downloaded file: the file itself, or in a
// packed tar a regular file of that name, at the top or in a folder bin, as npm packages and
// releases have it.
func OpenProgram(file, name string) (_ *Program, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	content, err := compression.Open(f, maxWindowBytes)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	p := &Program{Reader: content, content: content, file: f}
	if !content.Packed() {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		p.SizeBytes = info.Size()
		return p, nil
	}
	if p.Reader, p.SizeBytes, err = findProgram(content, name); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, errors.Join(err, content.Close()))
	}
	return p, nil
}

// findProgram reads a tar up to the program's content.
func findProgram(r io.Reader, name string) (io.Reader, int64, error) {
	archive := tar.NewReader(r)
	for range maxArchiveEntries {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("the archive holds no program %q", name)
		}
		if err != nil {
			return nil, 0, err
		}
		if h.Typeflag != tar.TypeReg || !isProgram(h.Name, name) {
			continue
		}
		if h.Size > maxProgramBytes {
			return nil, 0, fmt.Errorf("%s has %d bytes, at most %d are taken", h.Name, h.Size, maxProgramBytes)
		}
		return archive, h.Size, nil
	}
	return nil, 0, fmt.Errorf("the archive has more than %d entries", maxArchiveEntries)
}

// isProgram reports whether an entry is the program: NAME, DIR/NAME, bin/NAME or DIR/bin/NAME.
func isProgram(entry, name string) bool {
	entry = path.Clean(entry)
	if path.Base(entry) != name {
		return false
	}
	dir := strings.TrimSuffix(strings.TrimSuffix(entry, name), "/")
	dir = strings.TrimSuffix(strings.TrimSuffix(dir, "bin"), "/")
	return !strings.Contains(dir, "/")
}
