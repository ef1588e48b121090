package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyTree copies a file or folder with owners, modes, times and extended attributes. Symlinks stay
// as they are, sockets are left out. The destination must not exist.
func copyTree(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.Mode().Type() == os.ModeSocket {
		return nil
	}
	if err := copyContent(from, to, info); err != nil {
		return err
	}
	return copyMeta(from, to, info)
}

func copyContent(from, to string, info os.FileInfo) error {
	stat := info.Sys().(*syscall.Stat_t)
	switch info.Mode().Type() {
	case 0:
		return copyFile(from, to)
	case os.ModeDir:
		return copyDir(from, to)
	case os.ModeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	default: // device or fifo
		return unix.Mknod(to, stat.Mode, int(stat.Rdev))
	}
}

func copyDir(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// copyMeta comes after the content: writing changes times, and chown clears set-user-ID, so that
// the mode is next to last.
func copyMeta(from, to string, info os.FileInfo) error {
	stat := info.Sys().(*syscall.Stat_t)
	if err := os.Lchown(to, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSymlink {
		if err := unix.Chmod(to, stat.Mode&0o7777); err != nil {
			return fmt.Errorf("chmod %s: %w", to, err)
		}
	}
	times := []unix.Timespec{unix.Timespec(stat.Atim), unix.Timespec(stat.Mtim)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW)
}

// copyXattrs copies what the destination can hold: a file system without extended attributes has
// none to lose.
func copyXattrs(from, to string) error {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(from, names)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes of %s: %w", from, err)
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		size, err := unix.Lgetxattr(from, string(name), value)
		if err != nil {
			return fmt.Errorf("read attribute %s of %s: %w", name, from, err)
		}
		if err := unix.Lsetxattr(to, string(name), value[:size], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set attribute %s of %s: %w", name, to, err)
		}
	}
	return nil
}
