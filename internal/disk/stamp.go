package disk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrDamaged says that a file is not what its manifest says.
var ErrDamaged = errors.New("file is damaged")

// File is a file as a manifest records it.
type File struct {
	Name      string `json:"name"`       // in the manifest's folder
	SizeBytes int64  `json:"size_bytes"` //
	SHA256    string `json:"sha256"`     // hex
}

// Describe returns what a manifest records of the file name in dir.
func Describe(ctx context.Context, dir, name string) (File, error) {
	path := dir + "/" + name
	sum, size, err := SHA256(ctx, path)
	if err != nil {
		return File{}, err
	}
	return File{Name: name, SizeBytes: size, SHA256: sum}, nil
}

// SHA256 returns the hash of the file at path in hex, and how many bytes were hashed.
func SHA256(ctx context.Context, path string) (string, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, contextReader{ctx, file})
	if err != nil {
		return "", 0, fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), n, nil
}

// Stamp returns a text that changes when any of the named files in dir is written, replaced or
// restored from a copy: inode, size, mtime and ctime of each. It only proves that the kernel saw no
// write; rot of the medium goes unseen.
func Stamp(dir string, names ...string) (string, error) {
	parts := make([]string, 0, len(names))
	for _, name := range names {
		var st unix.Stat_t
		path := dir + "/" + name
		if err := unix.Stat(path, &st); err != nil {
			return "", &os.PathError{Op: "stat", Path: path, Err: err}
		}
		parts = append(
			parts,
			fmt.Sprintf("%s:%d:%d:%d.%09d:%d.%09d", name, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec),
		)
	}
	return strings.Join(parts, " "), nil
}

// StampOf returns the stamp of a manifest's files in dir.
func StampOf(dir string, files []File) (string, error) {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name
	}
	return Stamp(dir, names...)
}

// Verify checks the files of a manifest in dir. When their stamp still is trusted, they are not
// read; otherwise they are hashed. It returns the stamp to trust from now on, or an error that
// wraps ErrDamaged.
func Verify(ctx context.Context, dir string, files []File, trusted string) (string, error) {
	stamp, err := StampOf(dir, files) // before reading: a write while hashing then changes the stamp
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return "", err
	}
	if stamp == trusted {
		return stamp, nil
	}
	for _, want := range files {
		got, err := Describe(ctx, dir, want.Name)
		if err != nil {
			return "", err
		}
		if got != want {
			return "", fmt.Errorf(
				"%w: %s/%s: sha256 %.12s of %d bytes, want %.12s of %d",
				ErrDamaged,
				dir,
				want.Name,
				got.SHA256,
				got.SizeBytes,
				want.SHA256,
				want.SizeBytes,
			)
		}
	}
	return stamp, nil
}
