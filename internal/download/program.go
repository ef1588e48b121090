package download

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

const (
	maxProgramBytes   = 1 << 30
	maxArchiveEntries = 100_000
)

// Program is an executable, to be read once.
type Program struct {
	io.Reader
	SizeBytes int64
	file      *os.File
}

// Close lets go of the file.
func (p *Program) Close() error { return p.file.Close() }

// OpenProgram finds the executable of that name in a downloaded file: the file itself, or in a .tar.gz a regular file of
// that name, at the top or in a folder bin, as npm packages and releases have it.
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
	content := bufio.NewReader(f)
	if magic, err := content.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		return &Program{Reader: content, SizeBytes: info.Size(), file: f}, nil
	}
	unzipped, err := gzip.NewReader(content)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	archive, size, err := findProgram(unzipped, name)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	return &Program{Reader: archive, SizeBytes: size, file: f}, nil
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
