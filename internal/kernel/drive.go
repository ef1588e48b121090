package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"banger/internal/disk"
)

const depmodDeadline = 2 * time.Minute

// runDepmod writes the indexes that modprobe reads (modules.dep and others) into
// tree/lib/modules/RELEASE.
func runDepmod(ctx context.Context, depmod, tree, release string) error {
	ctx, cancel := context.WithTimeout(ctx, depmodDeadline)
	defer cancel()
	out, err := exec.CommandContext(ctx, depmod, "-b", tree, release).CombinedOutput()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("run depmod: %w: %.500s", err, bytes.TrimSpace(out))
	}
	return nil
}

// modulesDrive writes the folder as a read-only drive to path. Everything is root's and dated
// built.
func modulesDrive(ctx context.Context, dir, path string, built time.Time) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := writeTree(w, dir, built)
		_ = w.CloseWithError(err) // a pipe's close has no error of its own
		written <- err
	}()
	err := disk.FromTar(ctx, r, path, disk.LabelModules)
	_ = r.CloseWithError(err) // ends a writer that is not done
	if writing := <-written; err == nil {
		err = writing
	}
	if err != nil {
		return fmt.Errorf("make modules drive: %w", err)
	}
	return nil
}

// writeTree writes folders and files below dir as a tar, sorted by name.
func writeTree(w io.Writer, dir string, built time.Time) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		h := &tar.Header{
			Name:       name,
			Mode:       int64(info.Mode().Perm()),
			ModTime:    built,
			AccessTime: built,
			ChangeTime: built,
			Format:     tar.FormatPAX,
		}
		if entry.IsDir() {
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
			return t.WriteHeader(h)
		}
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		return copyFile(t, path)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func copyFile(w io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(w, file)
	return err
}
