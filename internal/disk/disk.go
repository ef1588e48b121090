// Package disk makes, copies, labels and checks the files VMs use as drives.
//
// All of it works as an ordinary user on files; nothing is mounted. Guests find their drives by the
// label in the ext4 superblock. Files that are shared (images, kernels) are checked by hash once
// and by stamp after that.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/api"
)

// Usage is what a file costs.
type Usage struct {
	ApparentBytes  int64 // its length
	AllocatedBytes int64 // what its blocks take on the host; less when it is sparse
	// OwnBytes is what removing the file gives back, as far as the filesystem tells: nothing of a
	// file with more than one hard link, and not the extents that a reflink shares.
	OwnBytes int64
}

// UsageOf returns the usage of the file at path.
func UsageOf(path string) (Usage, error) {
	file, err := os.Open(path)
	if err != nil {
		return Usage{}, err
	}
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return Usage{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	// st_blocks counts 512 bytes, whatever the filesystem
	u := Usage{ApparentBytes: st.Size, AllocatedBytes: st.Blocks * 512}
	if st.Nlink <= 1 {
		u.OwnBytes = u.AllocatedBytes - min(u.AllocatedBytes, reflinkedBytes(file))
	}
	return u, nil
}

// FreeBytes returns how much this user can still write to the filesystem that holds dir.
func FreeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// RequireFree refuses when fewer than bytes are free below dir. Others write too: a full disk is
// still possible later.
func RequireFree(dir string, bytes int64) error {
	free, err := FreeBytes(dir)
	if err != nil {
		return err
	}
	if free < bytes {
		return api.Errorf(api.CodeUnavailable, "not enough space in %s: %d MiB free, %d MiB needed", dir, free>>20, bytes>>20).
			WithHint("free some space on its filesystem: df -h %s", filepath.Dir(dir)) // dir itself may be gone by then
	}
	return nil
}

// ErrFull is in errors that ExplainFull has explained.
var ErrFull = errors.New("disk full")

// ExplainFull turns "no space left" and "quota exceeded" into an error a user can act on, which
// still has its cause. Others pass, and those that were explained further down, where the path is
// known better.
func ExplainFull(path string, err error) error {
	if errors.Is(err, ErrFull) || !IsFull(err) {
		return err
	}
	return api.Errorf(api.CodeUnavailable, "%w while writing %s: %w", ErrFull, path, err).
		WithHint("free some space on that filesystem and try again")
}

// IsFull reports whether an error comes from a full disk, or from the user's quota.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// contextReader ends a stream when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// createFile makes path, which must not exist, lets write fill it and syncs it; on an error nothing
// stays.
func createFile(path string, mode os.FileMode, write func(*os.File) error) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, mode)
	if err != nil {
		return fmt.Errorf("create disk: %w", ExplainFull(path, err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(ExplainFull(path, err), os.Remove(path))
		}
	}()
	if err := write(file); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", path, err), file.Close())
	}
	return file.Close()
}
