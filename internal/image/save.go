package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"banger/internal/disk"
	"banger/internal/kernel"
)

// An archive is a tar, compressed with zstd. Its first file is contentsName, JSON; the files that
// it tells follow in its order. Holes are zeroes, which cost next to nothing compressed; Load makes
// holes of them again.
const (
	contentsName    = "banger-image.json"
	archiveVersion  = 1
	kernelFolder    = "kernel/"
	maxContents     = 4 << 20
	maxRootfsBytes  = 256 << 30
	maxWindowBytes  = 64 << 20
	maxTrailerBytes = 64 << 10 // of zeroes behind the last file
)

// contents is what an archive holds.
type contents struct {
	Version   int              `json:"version"` // of this format
	Image     Manifest         `json:"image"`
	Kernel    *kernel.Manifest `json:"kernel,omitempty"` // that the image names
	DataBytes int64            `json:"data_bytes"`       // of all files without holes
}

// Save writes the image of that name or id, with the kernel that it names, as an archive to w.
// Nothing is written before both were found right. The same image gives the same id wherever it is
// loaded.
func (c *Catalog) Save(ctx context.Context, ref string, w io.Writer) error {
	head, files, err := c.contentsOf(ctx, ref)
	defer func() {
		for _, f := range files {
			_ = f.file.Close() // only read
		}
	}()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return err
	}
	packed, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packed)
	err = writeArchive(ctx, archive, text, files)
	if err := errors.Join(err, packed.Close()); err != nil {
		return fmt.Errorf("save image %s: %w", ref, err)
	}
	return nil
}

// savedFile is one file of an archive. It is open, so that a removal meanwhile takes nothing away.
type savedFile struct {
	name string
	size int64
	file *os.File
}

func (c *Catalog) contentsOf(ctx context.Context, ref string) (head contents, files []savedFile, err error) {
	record, err := c.repository().Open(ctx, ref)
	if err != nil {
		return head, nil, err
	}
	head.Version = archiveVersion
	if head.Image, err = load(c.Dir(record.ID)); err != nil {
		return head, nil, err
	}
	head.Image.InPlace = ""
	if slices.Contains(record.Names, ref) { // it is loaded under the name by which it was asked for
		head.Image.Name = ref
	}
	add := func(name, path string, size int64) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		files = append(files, savedFile{name, size, file})
		data, err := disk.DataBytes(path)
		head.DataBytes += data
		return err
	}
	if head.Image.Kernel != "" {
		if err := c.Kernels.Verify(ctx, head.Image.Kernel); err != nil {
			return head, nil, err
		}
		bundle, err := kernel.Load(c.Kernels.Dir(head.Image.Kernel))
		if err != nil {
			return head, nil, err
		}
		head.Kernel = &bundle.Manifest
		for _, f := range bundle.Files {
			if err := add(kernelFolder+f.Name, filepath.Join(bundle.Dir, f.Name), f.SizeBytes); err != nil {
				return head, files, err
			}
		}
	}
	return head, files, add(rootfsName, c.Rootfs(record.ID), head.Image.SizeBytes)
}

func writeArchive(ctx context.Context, w *tar.Writer, text []byte, files []savedFile) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: contentsName, Mode: 0o644, Size: int64(len(text))}); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: f.size}); err != nil {
			return err
		}
		if _, err := io.CopyN(w, disk.WithContext(ctx, f.file), f.size); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return w.Close()
}
