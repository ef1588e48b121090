package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/store"
)

// Name is what the image and the kernel are called, as the settings' defaults are.
const Name = "debian:trixie"

// Fill gives a home folder an image, which has those defaults, and a kernel.
func Fill(ctx context.Context, home string, db *store.Store, defaults api.ImageDefaults) error {
	work := filepath.Join(home, "work")
	rootfs, err := describe(ctx, work, "rootfs.ext4")
	if err != nil {
		return err
	}
	i := image.Manifest{Version: 1, ID: rootfs.SHA256, Name: Name, SizeBytes: rootfs.SizeBytes, Defaults: defaults}
	if err := publish(ctx, home, db, store.KindImage, "images", i.ID, i); err != nil {
		return err
	}
	k := kernel.Manifest{Version: 1, Name: Name, Release: "6.12"}
	for _, name := range []string{"vmlinux", "initrd.cpio", "modules.ext4"} {
		file, err := describe(ctx, work, name)
		if err != nil {
			return err
		}
		k.Files = append(k.Files, file)
	}
	return publish(ctx, home, db, store.KindKernel, "kernels", k.ID(), k)
}

// describe makes a file of nonsense.
func describe(ctx context.Context, work, name string) (disk.File, error) {
	if err := errors.Join(os.MkdirAll(work, 0o700), os.WriteFile(filepath.Join(work, name), []byte(name), 0o600)); err != nil {
		return disk.File{}, fmt.Errorf("make %s: %w", name, err)
	}
	return disk.Describe(ctx, work, name)
}

// publish gives the work folder its manifest, its place and its record.
func publish(
	ctx context.Context,
	home string,
	db *store.Store,
	kind *store.Kind,
	folder, id string,
	manifest any,
) error {
	work := filepath.Join(home, "work")
	return errors.Join(
		disk.WriteManifest(filepath.Join(work, "manifest.json"), manifest),
		os.MkdirAll(filepath.Join(home, folder), 0o700),
		os.Rename(work, filepath.Join(home, folder, id)),
		db.PutArtifact(ctx, kind, store.Artifact{ID: id, Name: Name, CreatedAt: time.Now()}),
	)
}
