package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
	"banger/internal/artifact"
	"banger/internal/atomicfile"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/kernel"
	"banger/internal/oci"
	"banger/internal/progress"
	"banger/internal/store"
)

// Catalog is the set of images of this user: records in the store, a folder by id in Root. It is
// safe for concurrent use, also by several processes.
type Catalog struct {
	Root    string
	Store   *store.Store
	Kernels *kernel.Catalog // of the kernels that images name
	Layers  *oci.Cache      // of images from registries

	Mirror       string // Debian archive to build from; empty is Debian's own
	UbuntuMirror string // Ubuntu archive to build from
	// Stale reports whether a preset has changed since it had that hash; nil when nobody knows
	// presets.
	Stale func(preset, sha256 string) bool
}

func (c *Catalog) repository() artifact.Repository {
	return artifact.Repository{
		Kind: store.KindImage, Root: c.Root, Store: c.Store,
		Contents: func(dir string) (string, []disk.File, error) {
			m, err := load(dir)
			return m.ID, m.files(), err
		},
		Repair: c.repair,
	}
}

// Dir returns the folder of the image with that id.
func (c *Catalog) Dir(id string) string { return c.repository().Dir(id) }

// Rootfs returns the path of the root filesystem of the image with that id.
func (c *Catalog) Rootfs(id string) string { return filepath.Join(c.Dir(id), rootfsName) }

// Ensure returns the image of that name or id, verified, and makes it when ref is a source without
// an image. Files are no such sources: which image they stand for changes with them.
func (c *Catalog) Ensure(ctx context.Context, ref string) (store.Image, error) {
	record, err := c.repository().Open(ctx, ref)
	if api.CodeOf(err) != api.CodeNotFound || !strings.Contains(ref, ":") {
		return record, err
	}
	source, err := ParseSource(ref)
	switch {
	case err != nil:
		return store.Image{}, err
	case source.isFile():
		return store.Image{}, api.Errorf(api.CodeUnsupported, "image %s: a file is made an image first", ref).
			WithRemedy(api.OpPullImage.Remedy(api.PullImage{Source: ref}, "make it one"))
	case source.isDistribution():
		return c.repository().
			Ensure(ctx, ref, sealed(ref, func(ctx context.Context, dir string) (Manifest, error) { return c.bootstrap(ctx, source, dir) }))
	}
	return c.convert(ctx, source, ref)
}

// Verify checks the image of that id: its file is hashed, unless its stamp is still the trusted
// one.
func (c *Catalog) Verify(ctx context.Context, id string) error {
	_, err := c.repository().Open(ctx, id)
	return err
}

// Make makes an image, publishes and records it, and gives it the name. make writes rootfs.ext4
// (see RootfsPath; an ext4 filesystem, best with the label banger-image) into dir, an empty folder
// that nobody sees yet, and returns what it knows of the image; Version, ID, Name, SizeBytes,
// CreatedAt and UUID are filled in here. Two makers of one name take turns. The name moves from an
// older image, which keeps its id and its other names; left without any and without VMs, it goes
// with the next prune. On an error, or when ctx ends, nothing of the image is left; after a crash
// the next Sweep sees to that.
func (c *Catalog) Make(
	ctx context.Context,
	name string,
	make func(ctx context.Context, dir string) (Manifest, error),
) (store.Image, error) {
	if err := artifact.CheckName(name); err != nil {
		return store.Image{}, err
	}
	return c.repository().Make(ctx, name, sealed(name, make))
}

// repair says what to do about an image whose file is not what it was.
func (c *Catalog) repair(r store.Artifact) api.Remedy {
	if m, err := load(c.Dir(r.ID)); err == nil && m.InPlace != "" {
		return api.OpRegisterImage.Remedy(api.RegisterImage{Name: r.Name, Rootfs: m.InPlace},
			"%s has changed or is gone since it was registered: put it back, or register it again", m.InPlace)
	}
	return api.OpRemoveImage.Remedy(api.ImageRef{Image: r.Name}, "remove it with its machines and make it again")
}

// RootfsPath returns where the root filesystem of an image lies in its folder.
func RootfsPath(dir string) string { return filepath.Join(dir, rootfsName) }

// sealed is make followed by what all images have in common: the root filesystem is hashed and the
// manifest written.
func sealed(name string, make func(ctx context.Context, dir string) (Manifest, error)) artifact.Fill {
	return func(ctx context.Context, dir string) (store.Artifact, error) {
		m, err := make(ctx, dir)
		if err != nil {
			return store.Artifact{}, err
		}
		m.Name, m.CreatedAt = name, time.Now().UTC().Truncate(time.Second)
		m, err = seal(ctx, dir, m)
		return m.record(), err
	}
}

// seal hashes the root filesystem in dir and writes the manifest. An id that it has already stays.
func seal(ctx context.Context, dir string, m Manifest) (_ Manifest, err error) {
	stage := progress.Start(ctx, "hash image")
	defer func() { stage.End(err) }()
	file, err := disk.Describe(ctx, dir, rootfsName)
	if err != nil {
		return m, err
	}
	volume, err := disk.VolumeOf(RootfsPath(dir))
	if err != nil {
		return m, err
	}
	m.Version, m.RootfsSHA256, m.SizeBytes, m.UUID = manifestVersion, file.SHA256, file.SizeBytes, ""
	if volume.Label != disk.LabelImage {
		m.UUID = volume.UUID
	}
	if m.ID == "" {
		if m.ID, err = m.identity(); err != nil {
			return m, err
		}
	}
	if m.ID == m.RootfsSHA256 {
		m.RootfsSHA256 = ""
	}
	return m, disk.WriteManifest(filepath.Join(dir, manifestName), m)
}

// ForeignUUID returns the UUID by which a guest finds the filesystem of the image with that id, or
// "" when it has the label that banger gives.
func (c *Catalog) ForeignUUID(id string) (string, error) {
	m, err := load(c.Dir(id))
	return m.UUID, err
}

// record is what the store keeps of the manifest.
func (m Manifest) record() store.Artifact {
	return store.Artifact{ID: m.ID, Source: m.Source, SizeBytes: m.SizeBytes, CreatedAt: m.CreatedAt, KernelID: m.Kernel}
}

// List returns all images by name, those without one last.
func (c *Catalog) List(ctx context.Context) ([]api.Image, error) {
	return artifact.Described(ctx, c.repository(), c.describe)
}

// Inspect returns the image of that name or id.
func (c *Catalog) Inspect(ctx context.Context, ref string) (api.Image, error) {
	record, err := c.Store.Artifact(ctx, store.KindImage, ref)
	if err != nil {
		return api.Image{}, err
	}
	users, err := c.Store.ArtifactUsers(ctx, store.KindImage, record.ID)
	return c.describe(record, users), err
}

// describe shows an image; what a damaged manifest does not tell is left out, with the reason in
// Trouble.
func (c *Catalog) describe(r store.Artifact, users []string) api.Image {
	image := api.Image{
		ID: r.ID, Name: r.Name, Names: r.Names, Source: r.Source, SizeBytes: r.SizeBytes, CreatedAt: r.CreatedAt, Dir: c.Dir(r.ID),
		UsedBy: users, KernelID: r.KernelID,
	}
	m, err := load(c.Dir(r.ID))
	if err != nil {
		image.Error = err.Error()
		return image
	}
	image.Architecture, image.Packages, image.Preset, image.PresetSHA256 = m.Architecture, m.Packages, m.Preset, m.PresetSHA256
	image.InputsSHA256, image.Services, image.Defaults, image.InPlace = m.InputsSHA256, m.Services, m.Defaults, m.InPlace
	image.Stale = c.Stale != nil && c.Stale(m.Preset, m.PresetSHA256)
	usage, err := disk.UsageOf(c.Rootfs(r.ID))
	if err != nil {
		image.Error = err.Error()
		return image
	}
	if m.InPlace != "" {
		usage.OwnBytes = 0 // the user's, and stays
	}
	image.OwnBytes, image.SharedBytes = usage.OwnBytes, usage.AllocatedBytes-usage.OwnBytes
	return image
}

// Tag gives the image of that name or id one more name.
func (c *Catalog) Tag(ctx context.Context, ref, name string) (api.Image, error) {
	record, err := c.repository().Tag(ctx, ref, name)
	if err != nil {
		return api.Image{}, err
	}
	return c.Inspect(ctx, record.ID)
}

// Remove takes the name away, and with the last one the image; an id means all of it. One that VMs
// use is a conflict.
func (c *Catalog) Remove(ctx context.Context, ref string) error {
	return c.repository().Remove(ctx, ref)
}

// Sweep removes what a crash left: half-made folders, folders without a record, work folders. Call
// it at the daemon's start, before anything is built.
func (c *Catalog) Sweep(ctx context.Context) error {
	errs := []error{c.repository().Sweep(ctx), c.Layers.Sweep()}
	left, err := filepath.Glob(filepath.Join(workRoot, c.workPrefix()+"*"))
	errs = append(errs, err)
	for _, work := range left {
		errs = append(errs, atomicfile.RemoveUnclaimed(work, func(path string) error { return removeWork(ctx, path) }))
	}
	return errors.Join(errs...)
}

// workPrefix names this catalog's work folders, so that another home's are left alone.
func (c *Catalog) workPrefix() string {
	sum := sha256.Sum256([]byte(c.Root))
	return "banger-image-" + hex.EncodeToString(sum[:6]) + "-"
}

// bootstrap makes the image of a source in dir, in a work folder of its own.
func (c *Catalog) bootstrap(ctx context.Context, source Source, dir string) (_ Manifest, err error) {
	work, err := os.MkdirTemp(workRoot, c.workPrefix())
	if err != nil {
		return Manifest{}, fmt.Errorf("make build folder: %w", err)
	}
	defer func() { err = errors.Join(err, removeWork(ctx, work)) }()
	release, err := atomicfile.Claim(work)
	if err != nil {
		return Manifest{}, fmt.Errorf("make build folder: %w", err)
	}
	defer release()
	if err := os.Chmod(work, 0o755); err != nil { // the build's ids are not the user's
		return Manifest{}, err
	}
	mirror := c.UbuntuMirror
	if source.Kind == SourceDebian {
		mirror = cmp.Or(c.Mirror, debian.DefaultMirror)
	}
	return Build(ctx, source, mirror, work, dir)
}
