package boot

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is one call of mount(2).
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// kernelFilesystems are what every init expects to find, with the options systemd would give them:
// it keeps what is mounted already.
var kernelFilesystems = []mount{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
}

func (s *state) mountKernelFilesystems(context.Context) error {
	for _, m := range kernelFilesystems {
		if err := m.do(); err != nil && !errors.Is(err, unix.EBUSY) { // the kernel may have mounted /dev by itself
			return err
		}
	}
	return nil
}

// do makes the target when it is missing, and mounts.
func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.source, m.target, err)
	}
	return nil
}

// inRoot resolves path inside root as a process chrooted there would, and gives the outer path:
// symlinks of an image never lead out of it.
func inRoot(root, path string) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(dir)
	f, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", &os.PathError{Op: "resolve", Path: path, Err: err}
	}
	defer unix.Close(f)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f))
}

// makeInRoot is inRoot for a folder, which it makes when it is missing. Folders above it are made
// as well.
func makeInRoot(root, path string, mode os.FileMode) (string, error) {
	at := root
	outer := "/"
	for _, name := range splitPath(path) {
		outer += name
		next, err := inRoot(root, outer)
		if errors.Is(err, os.ErrNotExist) {
			next = at + "/" + name
			if err = os.Mkdir(next, mode); err == nil {
				err = os.Chmod(next, mode) // whatever the umask
			}
		}
		if err != nil {
			return "", fmt.Errorf("make %s: %w", outer, err)
		}
		at, outer = next, outer+"/"
	}
	return at, nil
}
