package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"banger/api"
	"banger/internal/artifact"
	"banger/internal/disk"
	"banger/internal/progress"
	"banger/internal/store"
)

// Register makes an image of a filesystem that stays where it is: its hash and place are recorded,
// and a link to it. Once the file has changed or is gone, VMs of the image are refused. A kernel is
// imported first; it has no name but is kept by the image.
func (c *Catalog) Register(ctx context.Context, want api.RegisterImage) (api.Image, error) {
	if err := errors.Join(artifact.CheckName(want.Name), checkRootfs(want.Rootfs)); err != nil {
		return api.Image{}, err
	}
	m := Manifest{Source: want.Rootfs, InPlace: want.Rootfs}
	if want.Kernel != nil {
		want.Kernel.Name = ""
		kernel, err := c.Kernels.Import(ctx, *want.Kernel)
		if err != nil {
			return api.Image{}, err
		}
		m.Kernel = kernel.ID
	}
	record, err := c.Make(ctx, want.Name, func(_ context.Context, dir string) (Manifest, error) {
		return m, os.Symlink(want.Rootfs, RootfsPath(dir))
	})
	if err != nil {
		return api.Image{}, errors.Join(fmt.Errorf("register image %s: %w", want.Name, err), c.dropKernel(ctx, m.Kernel))
	}
	return c.Inspect(ctx, record.ID)
}

// checkRootfs refuses what no guest could mount as its image.
func checkRootfs(path string) error {
	if !filepath.IsAbs(path) {
		return api.Errorf(api.CodeInvalid, "%q is not an absolute path", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "read root filesystem: %w", err)
	}
	if !info.Mode().IsRegular() {
		return api.Errorf(api.CodeInvalid, "%s is not a file", path)
	}
	volume, err := disk.VolumeOf(path)
	if errors.Is(err, disk.ErrNotExt4) {
		return api.Errorf(api.CodeInvalid, "%w", err).WithHint("an image is one ext4 filesystem, without a partition table")
	}
	switch {
	case err != nil:
		return err
	case volume.SizeBytes > info.Size():
		return api.Errorf(api.CodeInvalid, "%s is cut: its filesystem has %d bytes, the file %d", path, volume.SizeBytes, info.Size())
	case volume.NeedsJournal:
		return api.Errorf(api.CodeInvalid, "%s was not unmounted cleanly", path).WithHint("repair it: e2fsck -fy %s", path)
	case volume.Label != disk.LabelImage && volume.UUID == noUUID:
		return api.Errorf(api.CodeInvalid, "%s has neither the label %s nor a UUID, so that no guest would find it", path, disk.LabelImage).
			WithHint("give it one: tune2fs -U random %s", path)
	}
	return nil
}

const noUUID = "00000000000000000000000000000000"

// Promote copies a registered image into the store, so that the user's own file is not needed any
// more. The image keeps its id, its names and its VMs.
func (c *Catalog) Promote(ctx context.Context, ref string) (api.Image, error) {
	record, err := c.repository().Open(ctx, ref) // a file that has changed is refused here
	if err != nil {
		return api.Image{}, err
	}
	m, err := load(c.Dir(record.ID))
	if err != nil {
		return api.Image{}, err
	}
	if m.InPlace == "" {
		return api.Image{}, api.Errorf(api.CodeConflict, "image %s is in the store already", record.Name)
	}
	name := record.Name
	if len(record.Names) == 0 {
		name = ""
	}
	_, err = c.repository().Make(ctx, name, func(ctx context.Context, dir string) (store.Artifact, error) {
		stage := progress.Start(ctx, "copy image")
		err := disk.Copy(ctx, m.InPlace, RootfsPath(dir))
		stage.End(err)
		if err != nil {
			return store.Artifact{}, err
		}
		m.InPlace = ""
		sealed, err := seal(ctx, dir, m)
		if err == nil && sealed.rootfsSHA256() != m.rootfsSHA256() {
			err = fmt.Errorf("%w: it changed while it was copied", disk.ErrDamaged)
		}
		return sealed.record(), err
	})
	if err != nil {
		return api.Image{}, fmt.Errorf("promote image %s: %w", record.Name, err)
	}
	return c.Inspect(ctx, record.ID)
}

// Prune removes the images that have neither a name nor a VM, and the cached layers, which no image
// needs once it is made; it says what that gives back, and with dryRun it only says.
func (c *Catalog) Prune(ctx context.Context, dryRun bool) (api.Pruned, error) {
	pruned, err := c.repository().Prune(ctx, dryRun)
	if err != nil {
		return pruned, err
	}
	if !dryRun {
		freed, err := c.Layers.Trim(0)
		pruned.FreedBytes += freed
		return pruned, err
	}
	layers, err := c.Layers.Layers()
	for _, l := range layers {
		pruned.FreedBytes += l.SizeBytes
	}
	return pruned, err
}
