package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/image"
	"banger/internal/store"
)

const (
	largeImage    = "bench-10g"
	largeBytes    = 10 << 30
	createTimeout = time.Minute
)

// measureCreate compares creating and deleting a VM of the default image with one of an image of 10
// GiB.
func (b *bench) measureCreate(ctx context.Context) (_ result, err error) {
	r := result{
		Note: "create and delete a machine by the API, without a start; the large image is the small one in a sparse file of 10 GiB",
	}
	small, err := b.defaultImage(ctx)
	if err != nil {
		return r, err
	}
	if err := b.restartDaemon(ctx, func() error { return b.addLargeImage(ctx, small) }); err != nil {
		return r, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		err = errors.Join(err, b.client.RemoveImage(ctx, largeImage))
	}()
	create := func(image string) func(context.Context) error {
		return func(ctx context.Context) error {
			vm, err := b.client.CreateMachine(ctx, api.CreateMachine{Name: namePrefix + "create", Image: image}, nil)
			if err != nil {
				return err
			}
			return b.remove(ctx, vm.ID)
		}
	}
	r.Series, err = interleave(ctx, 2, b.creates, createTimeout,
		timed(fmt.Sprintf("image of %d MiB", small.SizeBytes>>20), create(small.Name)),
		timed(fmt.Sprintf("image of %d MiB", largeBytes>>20), create(largeImage)),
	)
	if err != nil {
		return r, err
	}
	r.Ratios = []ratio{{"median, large over small image", r.Series[1].Median / r.Series[0].Median, 1.1}}
	return r, nil
}

// defaultImage has banger make its default image where it is missing.
func (b *bench) defaultImage(ctx context.Context) (api.Image, error) {
	const name = namePrefix + "image"
	if err := b.banger(ctx, "create", "-q", "--name", name); err != nil {
		return api.Image{}, err
	}
	vm, err := b.client.Machine(ctx, name)
	if err != nil {
		return api.Image{}, err
	}
	small, err := b.client.Image(ctx, vm.ImageID)
	return small, errors.Join(err, b.remove(ctx, vm.ID))
}

// addLargeImage records a longer copy of an image. Its stamp is recorded as trusted, so that nobody
// hashes 10 GiB; nothing boots it. No daemon may run.
func (b *bench) addLargeImage(ctx context.Context, small api.Image) (err error) {
	folder, release, err := disk.NewFolder(b.folder().Images())
	if err != nil {
		return err
	}
	defer release()
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }() // gone already when it was published
	const rootfs = "rootfs.ext4"
	if err := disk.Copy(ctx, filepath.Join(small.Dir, rootfs), filepath.Join(folder, rootfs)); err != nil {
		return err
	}
	if err := os.Truncate(filepath.Join(folder, rootfs), largeBytes); err != nil {
		return fmt.Errorf("extend image: %w", err)
	}
	id := strings.Repeat("b", 64) // not a hash: see above
	now := time.Now()
	m := image.Manifest{Version: 1, ID: id, Name: largeImage, Source: "bench", Architecture: "amd64", SizeBytes: largeBytes, CreatedAt: now}
	if err := disk.WriteManifest(filepath.Join(folder, "manifest.json"), m); err != nil {
		return err
	}
	final := filepath.Join(b.folder().Images(), id)
	if err := disk.Publish(folder, final); err != nil {
		return err
	}
	stamp, err := disk.Stamp(final, rootfs)
	if err != nil {
		return err
	}
	records, err := store.Open(ctx, b.folder().Database())
	if err != nil {
		return err
	}
	defer records.Close()
	return records.PutArtifact(
		ctx,
		store.KindImage,
		store.Artifact{ID: id, Name: largeImage, Source: "bench", SizeBytes: largeBytes, Stamp: stamp, CreatedAt: now},
	)
}
