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

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/store"
)

// Catalog is the set of images of this user: records in the store, a folder by id in Root. It is safe for concurrent
// use, also by several processes.
type Catalog struct {
	Root   string
	Store  *store.Store
	Mirror string // Debian archive to build from; empty is Debian's own
}

// Dir returns the folder of the image with that id.
func (c *Catalog) Dir(id string) string { return filepath.Join(c.Root, id) }

// Rootfs returns the path of the root filesystem of the image with that id.
func (c *Catalog) Rootfs(id string) string { return filepath.Join(c.Dir(id), rootfsName) }

// Ensure returns the image of that name or id, verified, and builds it when ref is a source without an image.
func (c *Catalog) Ensure(ctx context.Context, ref string) (store.Image, error) {
	record, err := c.open(ctx, ref)
	if api.CodeOf(err) != api.CodeNotFound {
		return record, err
	}
	if !strings.Contains(ref, ":") {
		return store.Image{}, err
	}
	if _, err := suiteOf(ref); err != nil {
		return store.Image{}, err
	}
	unlock, err := disk.Lock(ctx, c.Root, ref)
	if err != nil {
		return store.Image{}, err
	}
	defer unlock()
	if record, err := c.open(ctx, ref); api.CodeOf(err) != api.CodeNotFound {
		return record, err // somebody else built it while this one waited
	}
	return c.build(ctx, ref)
}

// Verify checks the image of that id: its file is hashed, unless its stamp is still the trusted one.
func (c *Catalog) Verify(ctx context.Context, id string) error {
	_, err := c.open(ctx, id)
	return err
}

// open returns the record of that name or id when its file is right.
func (c *Catalog) open(ctx context.Context, ref string) (store.Image, error) {
	record, err := c.Store.Image(ctx, ref)
	if err != nil {
		return store.Image{}, err
	}
	stamp, err := c.check(ctx, record)
	if errors.Is(err, disk.ErrDamaged) {
		return store.Image{}, api.Errorf(api.CodeUnavailable, "image %s: %w", record.Name, err).
			WithHint("remove it with its VMs (banger inspect shows which), it is built again when needed: banger image rm %s", record.Name)
	}
	if err != nil || stamp == record.Stamp {
		return record, err
	}
	record.Stamp = stamp
	return record, c.Store.PutImage(ctx, record)
}

func (c *Catalog) check(ctx context.Context, record store.Image) (stamp string, err error) {
	m, err := load(c.Dir(record.ID))
	if err != nil {
		return "", err
	}
	if m.ID != record.ID {
		return "", fmt.Errorf("%w: manifest in %s is of another image", disk.ErrDamaged, c.Dir(record.ID))
	}
	return disk.Verify(ctx, c.Dir(record.ID), []disk.File{m.file()}, record.Stamp)
}

// List returns all images by name.
func (c *Catalog) List(ctx context.Context) ([]api.Image, error) {
	records, err := c.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.Image, len(records))
	for i, r := range records {
		if list[i], err = c.describe(ctx, r); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Inspect returns the record of the image of that name or id.
func (c *Catalog) Inspect(ctx context.Context, ref string) (api.Image, error) {
	record, err := c.Store.Image(ctx, ref)
	if err != nil {
		return api.Image{}, err
	}
	return c.describe(ctx, record)
}

func (c *Catalog) describe(ctx context.Context, r store.Image) (api.Image, error) {
	users, err := c.Store.ImageUsers(ctx, r.ID)
	return api.Image{
		ID: r.ID, Name: r.Name, Source: r.Source, SizeBytes: r.SizeBytes, CreatedAt: r.CreatedAt, Dir: c.Dir(r.ID), UsedBy: users,
	}, err
}

// Remove deletes the image of that name or id; one that VMs use is a conflict.
func (c *Catalog) Remove(ctx context.Context, ref string) error {
	record, err := c.Store.Image(ctx, ref)
	if err != nil {
		return err
	}
	if err := c.Store.DeleteImage(ctx, record.ID); err != nil { // first: a folder without a record is swept, the reverse is damage
		return err
	}
	if err := os.RemoveAll(c.Dir(record.ID)); err != nil {
		return fmt.Errorf("remove image %s: %w", record.Name, err)
	}
	return nil
}

// Sweep removes what a crash left: half-made folders, folders without a record, work folders. Call it at the daemon's
// start, before anything is built.
func (c *Catalog) Sweep(ctx context.Context) error {
	records, err := c.Store.Images(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, r := range records {
		known[r.ID] = true
	}
	errs := []error{disk.SweepFolders(c.Root, known)}
	left, err := filepath.Glob(filepath.Join(workRoot, c.workPrefix()+"*"))
	errs = append(errs, err)
	for _, work := range left {
		errs = append(errs, removeWork(ctx, work))
	}
	return errors.Join(errs...)
}

// workPrefix names this catalog's work folders, so that another home's are left alone.
func (c *Catalog) workPrefix() string {
	sum := sha256.Sum256([]byte(c.Root))
	return "banger-image-" + hex.EncodeToString(sum[:6]) + "-"
}

// build makes the image, publishes its folder and records it. The lock of the name must be held.
func (c *Catalog) build(ctx context.Context, source string) (_ store.Image, err error) {
	folder, err := disk.NewFolder(c.Root)
	if err != nil {
		return store.Image{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }() // gone already when it was published
	work, err := os.MkdirTemp(workRoot, c.workPrefix())
	if err != nil {
		return store.Image{}, fmt.Errorf("make build folder: %w", err)
	}
	defer func() { err = errors.Join(err, removeWork(ctx, work)) }()
	if err := os.Chmod(work, 0o755); err != nil { // the build's ids are not the user's
		return store.Image{}, err
	}
	m, err := Build(ctx, source, cmp.Or(c.Mirror, debian.DefaultMirror), work, folder)
	if err != nil {
		return store.Image{}, err
	}
	dir := c.Dir(m.ID)
	if err := disk.Publish(folder, dir); err != nil {
		return store.Image{}, fmt.Errorf("publish image %s: %w", source, err)
	}
	stamp, err := disk.Stamp(dir, rootfsName)
	if err != nil {
		return store.Image{}, err
	}
	record := store.Image{ID: m.ID, Name: source, Source: m.Source, SizeBytes: m.SizeBytes, Stamp: stamp, CreatedAt: m.CreatedAt}
	return record, c.Store.PutImage(ctx, record)
}
