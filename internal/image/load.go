package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/klauspost/compress/zstd"

	"banger/api"
	"banger/internal/artifact"
	"banger/internal/disk"
	"banger/internal/progress"
	"banger/internal/store"
)

// undoTimeout bounds what is undone after a failure, which does not end with its caller.
const undoTimeout = 30 * time.Second

var idPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Load makes the image of an archive that Save wrote, under name or, when that is empty, under the
// archive's own. The image gets the id that it had; whatever is not exactly what the archive says
// is refused. It reads r to its end.
func (c *Catalog) Load(ctx context.Context, r io.Reader, name string) (api.Image, error) {
	stage := progress.Start(ctx, "load image")
	image, err := c.load(ctx, stage, r, name)
	stage.End(err)
	return image, err
}

func (c *Catalog) load(ctx context.Context, stage *progress.Stage, r io.Reader, name string) (api.Image, error) {
	packed, err := zstd.NewReader(disk.WithContext(ctx, r), zstd.WithDecoderMaxWindow(maxWindowBytes), zstd.WithDecoderConcurrency(2))
	if err != nil {
		return api.Image{}, err
	}
	defer packed.Close()
	archive := tar.NewReader(packed)
	head, err := readContents(archive)
	if err != nil {
		return api.Image{}, badArchive(ctx, err)
	}
	name = cmp.Or(name, head.Image.Name)
	if err := artifact.CheckName(name); err != nil {
		return api.Image{}, err
	}
	stage.SetTotal(head.sizeBytes())
	l := &loader{archive: archive, left: head.DataBytes, stage: stage}
	if head.Kernel != nil {
		if err := c.Kernels.Load(ctx, *head.Kernel, l.next(kernelFolder)); err != nil {
			return api.Image{}, badArchive(ctx, err)
		}
	}
	record, err := c.repository().Make(ctx, name, func(ctx context.Context, dir string) (store.Artifact, error) {
		if err := disk.RequireFree(dir, l.left); err != nil {
			return store.Artifact{}, err
		}
		if err := l.next("")(ctx, dir, rootfsName, head.Image.SizeBytes); err != nil {
			return store.Artifact{}, err
		}
		if err := endOf(archive, packed); err != nil {
			return store.Artifact{}, err
		}
		m := head.Image
		m.Name, m.ID, m.Origin = name, "", "" // nobody has seen what it was made of
		m, err := seal(ctx, dir, m)
		if want := head.Image.rootfsSHA256(); err == nil && m.rootfsSHA256() != want {
			err = fmt.Errorf("sha256 %.12s of the root filesystem, want %.12s", m.rootfsSHA256(), want)
		}
		return m.record(), err
	})
	if err != nil {
		return api.Image{}, errors.Join(badArchive(ctx, err), c.dropKernel(ctx, head.Image.Kernel))
	}
	return c.Inspect(ctx, record.ID)
}

// dropKernel removes a kernel that was made for an image that then failed, unless something else
// keeps it.
func (c *Catalog) dropKernel(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return c.Kernels.Drop(ctx, id)
}

// badArchive is what is wrong with a user's archive; what has a code already, and a request that
// ended, keep theirs.
func badArchive(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, coded := errors.AsType[*api.Error](err); coded {
		return err
	}
	return api.Errorf(api.CodeInvalid, "load image: %w", err).
		WithHint("it takes an archive that an image was saved to, whole and unchanged")
}

// readContents reads and checks the archive's first file.
func readContents(archive *tar.Reader) (contents, error) {
	var head contents
	h, err := archive.Next()
	if err != nil {
		return head, err
	}
	if h.Name != contentsName || h.Typeflag != tar.TypeReg || h.Size > maxContents {
		return head, fmt.Errorf("it begins with %.80q of %d bytes, not with %s", h.Name, h.Size, contentsName)
	}
	text, err := io.ReadAll(archive)
	if err != nil {
		return head, err
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return head, fmt.Errorf("read %s: %w", contentsName, err)
	}
	return head, head.check()
}

func (h contents) check() error {
	m := h.Image
	identity, err := m.identity()
	switch {
	case err != nil:
		return err
	case h.Version != archiveVersion:
		return api.Errorf(api.CodeUnsupported, "load image: archive of version %d, this banger knows %d", h.Version, archiveVersion)
	case m.Version < 1 || m.Version > manifestVersion:
		return api.Errorf(api.CodeUnsupported, "load image: manifest of version %d, this banger knows %d", m.Version, manifestVersion)
	case !idPattern.MatchString(m.ID):
		return fmt.Errorf("bad image id %.80q", m.ID)
	case m.SizeBytes <= 0 || m.SizeBytes > maxRootfsBytes:
		return fmt.Errorf("root filesystem of %d bytes", m.SizeBytes)
	case h.DataBytes < 0 || h.DataBytes > 2*maxRootfsBytes:
		return fmt.Errorf("%d bytes of data", h.DataBytes)
	case m.InPlace != "":
		return errors.New("the image is registered, not saved")
	case (h.Kernel == nil) != (m.Kernel == "") || h.Kernel != nil && h.Kernel.ID() != m.Kernel:
		return errors.New("the kernel is not the one that the image names")
	case m.RootfsSHA256 != "" && m.ID != identity:
		return errors.New("the image's id is not that of what the archive holds")
	}
	return nil
}

func (h contents) sizeBytes() int64 {
	size := h.Image.SizeBytes
	if h.Kernel != nil {
		size += h.Kernel.SizeBytes()
	}
	return size
}

// loader writes the archive's files, one after another.
type loader struct {
	archive *tar.Reader
	left    int64 // of the data that the archive says it has
	stage   *progress.Stage
}

// next returns what writes the archive's next file, which must have that name in the folder and
// that size, into dir.
func (l *loader) next(folder string) func(ctx context.Context, dir, name string, size int64) error {
	return func(ctx context.Context, dir, name string, size int64) error {
		h, err := l.archive.Next()
		if err != nil {
			return fmt.Errorf("read %s: %w", name, noEOF(err))
		}
		if h.Name != folder+name || h.Typeflag != tar.TypeReg || h.Size != size {
			return fmt.Errorf("%.80q of %d bytes where %s of %d bytes should be", h.Name, h.Size, folder+name, size)
		}
		if err := disk.WriteSparse(dir+"/"+name, l.stage.Reader(disk.WithContext(ctx, l.archive)), size, &l.left); err != nil {
			return fmt.Errorf("read %s: %w", name, noEOF(err))
		}
		return nil
	}
}

// noEOF makes an end that comes too early an error that says so.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// endOf reads the archive to its end: nothing but padding may follow, and the last checksums must
// be right.
func endOf(archive *tar.Reader, packed io.Reader) error {
	if h, err := archive.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("%.80q follows the last file", h.Name)
		}
		return err
	}
	rest, err := io.ReadAll(io.LimitReader(packed, maxTrailerBytes+1))
	if err != nil {
		return err
	}
	if len(rest) > maxTrailerBytes || len(bytes.Trim(rest, "\x00")) > 0 {
		return errors.New("something follows the last file")
	}
	return nil
}
