package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/system"
)

// switchRoot makes newRoot the root: it finds the init while the image's paths can still be told
// from ours, keeps this program on /run, frees what the initramfs holds in memory and moves the
// kernel's file systems over.
func (s *state) switchRoot(context.Context) error {
	s.init = findInit(newRoot)
	s.record.Init = s.init.Kind
	if err := keepBinary(); err != nil {
		return fmt.Errorf("keep program on /run: %w", err)
	}
	if err := errors.Join(os.RemoveAll(initramfs), os.RemoveAll("/init")); err != nil {
		return fmt.Errorf("free initramfs: %w", err)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run"} {
		target := filepath.Join(newRoot, dir)
		if err := replaceSymlink(target); err != nil {
			return err
		}
		if err := (mount{dir, target, "", unix.MS_MOVE, ""}).do(); err != nil {
			return err
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// keepBinary copies this program to /run, from where the agent runs.
func keepBinary() error {
	if err := os.MkdirAll(system.RunDir, 0o755); err != nil {
		return err
	}
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(system.Binary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// replaceSymlink makes way for a mount point: a mount would follow a symlink of the image, into the
// initramfs.
func replaceSymlink(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSymlink {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("replace symlink: %w", err)
	}
	return nil
}
