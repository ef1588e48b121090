package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger/api"
	"banger/internal/compression"
	"banger/internal/disk"
)

const (
	maxArchiveEntries = 10_000

	blobsDir      = "blobs/sha256/"
	saveManifest  = "manifest.json" // of docker save
	layoutIndex   = "index.json"    // of an OCI layout; newer dockers write both
	sparsePrefix  = "GNU.sparse."   // PAX records of sparse entries
	maxLinkOfFile = 8               // symlinks on the way to a layer: old dockers link layers that are alike
)

// OpenArchive opens what `docker save` wrote, or an OCI layout in a tar; it may be packed by gzip,
// zstd, xz or bzip2. It must hold one image. Layers are read where they are, in the file; a packed
// one is unpacked into scratch first, as a file without a name, which ends with the process.
func OpenArchive(ctx context.Context, path, scratch string, limits Limits) (_ *Image, err error) {
	limits = limits.withDefaults()
	file, size, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	packed, size, err := unpackFile(ctx, file, size, scratch, limits)
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", path, err)
	}
	if packed != nil {
		err := file.Close()
		file = packed
		if err != nil {
			return nil, err
		}
	}
	image, err := readArchive(ctx, io.NewSectionReader(file, 0, size), limits)
	if err != nil {
		return nil, fmt.Errorf("read archive %s: %w", path, err)
	}
	image.files = []*os.File{file}
	return image, nil
}

// unpackFile returns what is packed in file as a nameless file in scratch, or nil when it is not
// packed, and its size.
func unpackFile(ctx context.Context, file *os.File, size int64, scratch string, limits Limits) (_ *os.File, _ int64, err error) {
	plain, err := unpack(disk.WithContext(ctx, io.NewSectionReader(file, 0, size)))
	if err != nil {
		return nil, 0, refuse("%w", err)
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	if !plain.Packed() {
		return nil, size, nil
	}
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, 0, err
	}
	out, err := os.CreateTemp(scratch, ".new-") // a crash before the next line leaves it to atomicfile.Sweep
	if err != nil {
		return nil, 0, err
	}
	if err := os.Remove(out.Name()); err != nil {
		return nil, 0, errors.Join(err, out.Close())
	}
	unpacked, err := io.Copy(out, compression.Limit(plain, limits.unpacked(size)))
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case disk.IsFull(err):
		err = disk.ExplainFull(scratch, err)
	case err != nil:
		err = refuse("%w", err)
	}
	if err != nil {
		return nil, 0, errors.Join(err, out.Close())
	}
	return out, unpacked, nil
}

// archive is a tar whose entries are read where they are.
type archive struct {
	tar     *io.SectionReader
	entries map[string]section
	links   map[string]string // symlinks, as cleaned paths in the archive
}

type section struct{ offset, size int64 }

func readArchive(ctx context.Context, r *io.SectionReader, limits Limits) (*Image, error) {
	a, err := indexArchive(ctx, r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, api.Errorf(api.CodeInvalid, "bad image: %w", err).
			WithHint("it must be a whole archive of docker save, or an OCI layout in a tar")
	}
	image := &Image{whiteouts: true, limits: limits}
	switch {
	case a.has(saveManifest):
		err = a.readSaved(image)
	case a.has(layoutIndex):
		err = a.readLayout(image)
	default:
		err = api.Errorf(api.CodeInvalid, "it holds no image: neither %s nor %s", saveManifest, layoutIndex).
			WithHint("a root filesystem is tar:FILE; an image is written by docker save")
	}
	return image, err
}

// indexArchive notes where each file of the archive lies.
func indexArchive(ctx context.Context, r *io.SectionReader) (*archive, error) {
	a := &archive{tar: r, entries: map[string]section{}, links: map[string]string{}}
	in := tar.NewReader(r) // it seeks over contents, and stands behind the header after Next
	for count := 0; ; count++ {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, err
		}
		if count == maxArchiveEntries {
			return nil, fmt.Errorf("more than %d entries", maxArchiveEntries)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeGNUSparse:
			return nil, fmt.Errorf("entry %.200q is sparse", h.Name)
		case tar.TypeReg:
			for key := range h.PAXRecords {
				if strings.HasPrefix(key, sparsePrefix) {
					return nil, fmt.Errorf("entry %.200q is sparse", h.Name)
				}
			}
			offset, err := r.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			if h.Size > r.Size()-offset {
				return nil, io.ErrUnexpectedEOF
			}
			a.entries[name] = section{offset, h.Size}
		case tar.TypeSymlink:
			a.links[name] = path.Clean("/" + path.Join(path.Dir(name), h.Linkname))[1:]
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
}

func (a *archive) has(name string) bool { _, ok := a.entries[name]; return ok }

// open returns a file of the archive, through links.
func (a *archive) open(name string) (*io.SectionReader, error) {
	name = path.Clean("/" + name)[1:]
	for range maxLinkOfFile {
		if s, ok := a.entries[name]; ok {
			return io.NewSectionReader(a.tar, s.offset, s.size), nil
		}
		target, ok := a.links[name]
		if !ok {
			return nil, refuse("it lacks the file %.200q", name)
		}
		name = target
	}
	return nil, refuse("file %.200q is a symlink to a symlink", name)
}

// small reads a file into memory; one that is named by its digest is checked.
func (a *archive) small(name string) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxManifestBytes {
		return nil, refuse("file %.200q has %d bytes", name, r.Size())
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	if want := digestOf(name); want != "" && hex.EncodeToString(sum[:]) != want {
		return nil, refuse("file %.200q is not what its digest says", name)
	}
	return text, nil
}

// digestOf returns the digest that a file is named by, or "".
func digestOf(name string) string {
	digest, ok := strings.CutPrefix(path.Clean(name), blobsDir)
	if !ok || !isDigest(digest) {
		return ""
	}
	return digest
}

// readSaved reads what `docker save` writes. Layers there are plain tars, known by the diffIDs in
// the configuration.
func (a *archive) readSaved(image *Image) error {
	text, err := a.small(saveManifest)
	if err != nil {
		return err
	}
	var saved []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(text, &saved); err != nil {
		return refuse("read %s: %w", saveManifest, err)
	}
	if len(saved) != 1 {
		return api.Errorf(api.CodeInvalid, "archive holds %d images", len(saved)).
			WithHint("write an archive of one: docker save -o FILE IMAGE")
	}
	diffIDs, err := a.config(image, saved[0].Config)
	if err != nil {
		return err
	}
	if len(saved[0].Layers) != len(diffIDs) || len(diffIDs) == 0 || len(diffIDs) > maxLayers {
		return refuse("it has %d layers, its configuration %d", len(saved[0].Layers), len(diffIDs))
	}
	for n, name := range saved[0].Layers {
		if err := a.layer(image, name, digestOf(name), diffIDs[n]); err != nil {
			return err
		}
	}
	if len(saved[0].RepoTags) > 0 {
		image.Source = fmt.Sprintf("%.200s", saved[0].RepoTags[0])
	}
	return nil
}

// readLayout reads an OCI layout.
func (a *archive) readLayout(image *Image) error {
	text, err := a.small(layoutIndex)
	if err != nil {
		return err
	}
	for range 2 { // the layout's own index may name an index of platforms
		index, err := v1.ParseIndexManifest(bytes.NewReader(text))
		if err != nil {
			return refuse("read %s: %w", layoutIndex, err)
		}
		desc, err := pick(index)
		if err != nil {
			return err
		}
		if text, err = a.small(blobsDir + desc.Digest.Hex); err != nil {
			return err
		}
		if !desc.MediaType.IsIndex() {
			break
		}
	}
	manifest, err := parseManifest(text)
	if err != nil {
		return err
	}
	diffIDs, err := a.config(image, blobsDir+manifest.Config.Digest.Hex)
	if err != nil {
		return err
	}
	if err := checkLayers(manifest.Layers, diffIDs, image.limits); err != nil {
		return err
	}
	for n, d := range manifest.Layers {
		if err := a.layer(image, blobsDir+d.Digest.Hex, d.Digest.Hex, diffIDs[n]); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) config(image *Image, name string) (diffIDs []string, err error) {
	text, err := a.small(name)
	if err != nil {
		return nil, err
	}
	file, err := parseConfig(text)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text) // old archives name it otherwise
	image.config = hex.EncodeToString(sum[:])
	image.Config, diffIDs, err = configOf(file)
	return diffIDs, err
}

func (a *archive) layer(image *Image, name, digest, diffID string) error {
	r, err := a.open(name)
	if err != nil {
		return err
	}
	image.layers = append(image.layers, layer{blob: r, size: r.Size(), digest: digest, diffID: diffID})
	return nil
}
