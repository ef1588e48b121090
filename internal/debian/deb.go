package debian

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"banger/internal/compression"
)

const (
	arMagic       = "!<arch>\n"
	arHeaderBytes = 60

	maxDictionaryBytes = 128 << 20 // of xz and zstd; 64 MiB is what xz -9 asks for
	maxDebFileBytes    = 1 << 30   // of one file in a package
)

// ReadDeb reads the files of the .deb at path, in order. Names are clean and relative
// ("usr/lib/x"); one that leads outside is refused. each gets directories, links and files; the
// reader ends with the file.
func ReadDeb(ctx context.Context, debPath string, each func(*tar.Header, io.Reader) error) error {
	file, err := os.Open(debPath)
	if err != nil {
		return err
	}
	defer file.Close()
	suffix, data, err := dataMember(bufio.NewReader(file))
	if err != nil {
		return fmt.Errorf("read %s: %w", path.Base(debPath), err)
	}
	plain, err := unpack(data, suffix)
	if err != nil {
		return fmt.Errorf("read %s: %w", path.Base(debPath), err)
	}
	defer plain.Close()
	if err := readTar(ctx, plain, each); err != nil {
		return fmt.Errorf("read %s: %w", path.Base(debPath), err)
	}
	return nil
}

func readTar(ctx context.Context, r io.Reader, each func(*tar.Header, io.Reader) error) error {
	t := tar.NewReader(r)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Size > maxDebFileBytes {
			return fmt.Errorf("file %.200q has %d bytes", h.Name, h.Size)
		}
		name := path.Clean(h.Name)
		if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
			return fmt.Errorf("file name %.200q leads outside", h.Name)
		}
		h.Name = name
		if err := each(h, t); err != nil {
			return err
		}
	}
}

// dataMember finds the member data.tar.* of a .deb (deb(5): an ar archive) and returns its
// compression suffix.
func dataMember(r io.Reader) (suffix string, data io.Reader, err error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return "", nil, errors.New("not a Debian package")
	}
	header := make([]byte, arHeaderBytes)
	for {
		if _, err := io.ReadFull(r, header); err != nil {
			return "", nil, fmt.Errorf("find data.tar: %w", err)
		}
		if string(header[58:]) != "`\n" {
			return "", nil, errors.New("damaged package: bad member header")
		}
		name := strings.TrimRight(strings.TrimRight(string(header[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(header[48:58]), " "), 10, 64)
		if err != nil || size < 0 || size > maxPackageBytes {
			return "", nil, errors.New("damaged package: bad member size")
		}
		if after, ok := strings.CutPrefix(name, "data.tar"); ok {
			return after, io.LimitReader(r, size), nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil { // members start at even offsets
			return "", nil, fmt.Errorf("find data.tar: %w", err)
		}
	}
}

// unpack returns the plain text of r, which has a file's suffix; it must be packed unless that is empty.
func unpack(r io.Reader, suffix string) (*compression.Reader, error) {
	plain, err := compression.Open(r, maxDictionaryBytes)
	if err == nil && suffix != "" && !plain.Packed() {
		return nil, fmt.Errorf("unknown compression %q", suffix)
	}
	return plain, err
}
