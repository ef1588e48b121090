// Package oci turns container images into root filesystems, without root and without unpacking
// them.
//
// An image comes from a registry (Registry.Find, its layers kept in a Cache), from an archive that
// `docker save` or an OCI tool wrote (OpenArchive), or from the tar of a root filesystem (OpenTar).
// Flatten reads its layers twice: first only their headers, into a tree in memory to which the
// layers' changes are applied as in package tree.go tells; then their contents, of which it writes
// what is left as one tar stream. No layer is held in memory, no file of an image is ever written
// to the host, and no name in an image is ever given to the host's kernel: `..`, absolute names and
// symlinks can only lead about in the tree.
//
// Everything read is bounded by Limits, and nothing is used whose digest is not the announced one.
package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"banger/api"
)

// Platform is what images are chosen for.
var platform = v1.Platform{OS: "linux", Architecture: "amd64"}

// Config is what an image says about the program it is made for.
type Config struct {
	Env        []string // NAME=VALUE
	WorkingDir string
	User       string // user[:group], names or numbers
	Entrypoint []string
	Cmd        []string
}

// Image is an image that was found. Close it after use; it is not safe for concurrent use.
type Image struct {
	Source string // what it says it is: name@digest from a registry, a tag from an archive, or nothing
	Config Config

	config    string // sha256 of the configuration's text, hex; empty without one
	layers    []layer
	whiteouts bool // whether names like .wh.x are marks
	limits    Limits
	files     []*os.File // what the layers read from
	scanned   *tree      // of a scan that nobody used yet

	fetch  func(context.Context) error // gets the layers of a registry's image; nil once they are at hand
	hangUp func()                      // ends the connections to the registry; nil for files
}

// layer is one blob, compressed or not.
type layer struct {
	blob   io.ReaderAt
	size   int64
	digest string // sha256 of the blob, hex; empty as long as nobody announced or computed one
	diffID string // the same of the tar in it

	forget func(digest string) error // removes the blob from the cache; nil when it is not from there
}

// Fetch gets the layers of a registry's image, which any use does that needs them. There is nothing
// to do a second time, nor for an image of a file.
func (i *Image) Fetch(ctx context.Context) error {
	if i.fetch == nil {
		return nil
	}
	if err := i.fetch(ctx); err != nil {
		return errors.Join(err, i.closeFiles())
	}
	i.fetch = nil
	return nil
}

// Identity says what the root filesystem and the Config are made of: "config:SHA256" or, without a
// configuration, "tar:SHA256". A configuration names the contents of all layers, so a registry and
// an archive give the same image the same identity. No layer is fetched for it; a tar is read.
func (i *Image) Identity(ctx context.Context) (string, error) {
	if i.config != "" {
		return "config:" + i.config, nil
	}
	t, err := i.scan(ctx)
	if err != nil {
		return "", err
	}
	i.scanned = t
	return "tar:" + i.layers[0].digest, nil
}

// Close closes the image's files and connections.
func (i *Image) Close() error {
	if i.hangUp != nil {
		i.hangUp()
	}
	return i.closeFiles()
}

func (i *Image) closeFiles() error {
	errs := make([]error, len(i.files))
	for n, file := range i.files {
		errs[n] = file.Close()
	}
	i.files = nil
	return errors.Join(errs...)
}

// CompressedBytes is how large the image's layers are as they are stored.
func (i *Image) CompressedBytes() int64 {
	var sum int64
	for _, l := range i.layers {
		sum += l.size
	}
	return sum
}

// Limits bound what an image may cost. The zero value of each field means its default.
type Limits struct {
	Entries int // names in all layers together; default 10^6
	// their names, links and attributes; default 256 MiB. An entry costs about 300 bytes of memory
	// more
	MetadataBytes int64
	Bytes         int64 // contents of all files together; default 64 GiB
	Ratio         int64 // how much larger contents may be than the layers as they are stored; default 200
	FreeBytes     int64 // may come out of layers of any size: small images of zeroes are harmless; default 1 GiB
}

func (l Limits) withDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 1_000_000
	}
	if l.MetadataBytes == 0 {
		l.MetadataBytes = 256 << 20
	}
	if l.Bytes == 0 {
		l.Bytes = 64 << 30
	}
	if l.Ratio == 0 {
		l.Ratio = 200
	}
	if l.FreeBytes == 0 {
		l.FreeBytes = 1 << 30
	}
	return l
}

// unpacked is how much may come out of layers that take stored bytes.
func (l Limits) unpacked(stored int64) int64 {
	return min(l.Bytes, l.FreeBytes+l.Ratio*min(stored, l.Bytes))
}

// refuse is the error for an image that is damaged or hostile.
func refuse(format string, args ...any) error {
	return api.Errorf(api.CodeInvalid, "bad image: %w", fmt.Errorf(format, args...))
}

// configOf checks and takes what banger uses of an image's configuration. diffIDs are those of the
// layers, in order.
func configOf(file *v1.ConfigFile) (c Config, diffIDs []string, err error) {
	if file.OS != "" && file.OS != platform.OS || file.Architecture != "" && file.Architecture != platform.Architecture {
		return Config{}, nil, api.Errorf(
			api.CodeUnsupported,
			"image is made for %.40q on %.40q, not for %s",
			file.OS,
			file.Architecture,
			platform,
		)
	}
	for _, h := range file.RootFS.DiffIDs {
		if h.Algorithm != "sha256" {
			return Config{}, nil, refuse("unknown hash %.40q", h.Algorithm)
		}
		diffIDs = append(diffIDs, h.Hex)
	}
	c = Config{WorkingDir: file.Config.WorkingDir, User: file.Config.User, Entrypoint: file.Config.Entrypoint, Cmd: file.Config.Cmd}
	for _, kv := range file.Config.Env {
		// a name alone would be taken from Docker's own environment
		if name, _, ok := strings.Cut(kv, "="); ok && name != "" {
			c.Env = append(c.Env, kv)
		}
	}
	for _, s := range slices.Concat(c.Env, c.Entrypoint, c.Cmd, []string{c.WorkingDir, c.User}) {
		if strings.ContainsRune(s, 0) {
			return Config{}, nil, refuse("configuration has a zero byte in %.40q", s)
		}
	}
	if c.WorkingDir != "" && !strings.HasPrefix(c.WorkingDir, "/") {
		c.WorkingDir = "/" + c.WorkingDir // as Docker understands it
	}
	return c, diffIDs, nil
}

// openFile opens a file that a user named. Whatever is not a regular file is refused: a pipe would
// block.
func openFile(path string) (*os.File, int64, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, 0, api.Errorf(api.CodeNotFound, "open image: %w", err)
	case err != nil:
		return nil, 0, api.Errorf(api.CodeInvalid, "open image: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = api.Errorf(api.CodeInvalid, "open image: %s is not a file", path)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// OpenTar opens the tar of a root filesystem: plain, or packed by gzip, zstd, xz or bzip2.
func OpenTar(path string, limits Limits) (*Image, error) {
	file, size, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return &Image{layers: []layer{{blob: file, size: size}}, limits: limits.withDefaults(), files: []*os.File{file}}, nil
}
