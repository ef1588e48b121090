package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/atomicfile"
)

const (
	// halfMadePrefix names folders that are being filled; after a crash SweepFolders removes them.
	halfMadePrefix = ".new-"
	lockPrefix     = ".lock-"

	lockPollEvery = 100 * time.Millisecond

	maxManifestBytes = 4 << 20
)

// NewFolder makes an empty folder in dir, to be filled and then moved into place by Publish. No
// sweep touches it until release is called or this process ends.
func NewFolder(dir string) (folder string, release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make folder: %w", err)
	}
	for {
		folder, err = os.MkdirTemp(dir, halfMadePrefix)
		if err != nil {
			return "", nil, fmt.Errorf("make folder: %w", err)
		}
		release, err = atomicfile.Claim(folder)
		if err == nil {
			return folder, release, nil
		}
		if !errors.Is(err, atomicfile.ErrGone) {
			return "", nil, errors.Join(fmt.Errorf("make folder: %w", err), os.RemoveAll(folder))
		}
	}
}

// Publish moves a filled folder to its final path, all or nothing, also across a crash. When
// something stands there already the two change places in one step and the old one is removed:
// whoever has a file of it open keeps that.
func Publish(folder, final string) error {
	if err := syncDir(folder); err != nil {
		return err
	}
	err := os.Rename(folder, final)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		if err = unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, final, unix.RENAME_EXCHANGE); err == nil {
			err = os.RemoveAll(folder)
		}
	}
	if err != nil {
		return fmt.Errorf("move folder into place: %w", err)
	}
	return syncDir(filepath.Dir(final))
}

// SweepFolders removes the folders in dir that a crash left: half-made ones and those that keep
// does not name. Lock files stay, and so does what another process is still making.
func SweepFolders(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep folders: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && !keep[e.Name()] {
			errs = append(errs, atomicfile.RemoveUnclaimed(filepath.Join(dir, e.Name()), os.RemoveAll))
		}
	}
	return errors.Join(errs...)
}

// Lock takes the lock of a name in dir, across processes, and waits for it until ctx ends. unlock
// may be called once; a crash unlocks too. The lock's file stays: removing it would let two hold
// the lock.
func Lock(ctx context.Context, dir, name string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	file, err := os.OpenFile(filepath.Join(dir, lockPrefix+strings.ReplaceAll(name, "/", "_")), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	tick := time.NewTicker(lockPollEvery) // a blocking flock could not be cancelled
	defer tick.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the lock of %s: %w", name, context.Cause(ctx)), file.Close())
		case <-tick.C:
		}
	}
}

// WriteManifest writes v as JSON to the file at path, which must not exist, and syncs it.
func WriteManifest(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return createFile(path, 0o644, func(file *os.File) error {
		_, err := file.Write(append(text, '\n'))
		return err
	})
}

// ReadManifest reads the JSON file at path into v. A missing or malformed one is ErrDamaged.
func ReadManifest(path string, v any) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read manifest: %w: %w", ErrDamaged, err)
	}
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxManifestBytes))
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("read manifest %s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}

func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync folder: %w", err), file.Close())
	}
	return file.Close()
}
