package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"banger/internal/disk"
	"banger/internal/hostinfo"
	"banger/internal/oci"
)

const ext4Timeout = 3 * time.Minute

// measureExt4 turns Go's own folder, as a tar, into a filesystem: by banger, straight and as an
// image is pulled, and by mkfs.ext4 -d, which wants the files unpacked first.
func (b *bench) measureExt4(ctx context.Context) (_ result, err error) {
	work, err := os.MkdirTemp(b.dir, "ext4-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(work)
	archive, packed := filepath.Join(work, "root.tar"), filepath.Join(work, "root.tar.gz")
	tree, image := filepath.Join(work, "tree"), filepath.Join(work, "image")
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return result{}, fmt.Errorf("find Go's files: %w", err)
	}
	for _, args := range [][]string{
		{"tar", "-C", string(bytes.TrimSpace(goroot)), "-cf", archive, "bin", "pkg", "src"},
		{"sh", "-c", `gzip -1 <"$1" >"$2"`, "sh", archive, packed},
		{"mkdir", tree},
		{"tar", "-C", tree, "-xf", archive},
	} {
		if err := command(ctx, args...); err != nil {
			return result{}, err
		}
	}
	info, err := os.Stat(archive)
	if err != nil {
		return result{}, err
	}
	mkfs, err := hostinfo.FindTool("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return result{}, err
	}
	size := fmt.Sprintf("%dk", info.Size()*2>>10)
	mkfsFrom := func(ctx context.Context) error { return command(ctx, mkfs, "-q", "-F", "-d", tree, image, size) }
	mib := float64(info.Size()) / (1 << 20)
	took, err := interleave(ctx, 0, b.filesystems, ext4Timeout,
		onFresh(image, "disk.FromTar", func(ctx context.Context) error {
			file, err := os.Open(archive)
			if err != nil {
				return err
			}
			defer file.Close()
			return disk.FromTar(ctx, file, image, disk.LabelImage)
		}),
		onFresh(image, "image pull tar:, without its hash", func(ctx context.Context) error { return writeTar(ctx, archive, image) }),
		onFresh(image, "the same of a .tar.gz", func(ctx context.Context) error { return writeTar(ctx, packed, image) }),
		onFresh(image, "mkfs.ext4 -d of the unpacked files", mkfsFrom),
		onFresh(image, "tar x, then mkfs.ext4 -d", func(ctx context.Context) error {
			if err := command(ctx, "sh", "-c", `rm -rf "$1" && mkdir "$1" && tar -C "$1" -xf "$2"`, "sh", tree, archive); err != nil {
				return err
			}
			return mkfsFrom(ctx)
		}),
	)
	r := result{Note: fmt.Sprintf("a tar of %.0f MiB with Go's own files into an ext4 filesystem", mib)}
	for _, s := range took {
		r.Series = append(r.Series, rates(mib, s))
	}
	if err == nil {
		r.Ratios = []ratio{
			{Name: "time of disk.FromTar beside mkfs.ext4 -d of unpacked files, medians", Value: took[0].Median / took[3].Median},
		}
	}
	return r, err
}

// writeTar does what the pull of a tar does before the image is hashed.
func writeTar(ctx context.Context, archive, to string) error {
	image, err := oci.OpenTar(archive, oci.Limits{})
	if err != nil {
		return err
	}
	defer image.Close()
	return image.WriteExt4(ctx, to, disk.LabelImage)
}

// onFresh is timed work that makes a file, which is removed before it and not timed, and synced
// within it.
func onFresh(path, name string, work func(context.Context) error) contender {
	return contender{name, func(ctx context.Context) (time.Duration, error) {
		if err := os.RemoveAll(path); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := work(ctx); err != nil {
			return 0, err
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0) // mkfs does not sync; disk.FromTar has
		if err != nil {
			return 0, err
		}
		defer file.Close()
		err = file.Sync()
		return time.Since(began), err
	}}
}

func command(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}
