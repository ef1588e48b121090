package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrGone says that what was to be claimed was swept away a moment before.
var ErrGone = errors.New("it was swept away")

// Claim marks a file or folder that is being filled, so that a sweep of another process leaves it
// alone: until release is called, or this process ends. Whoever makes something under a name that a
// sweep knows claims it first; with ErrGone a sweep was faster, and it has to be made again.
func Claim(path string) (release func(), err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	if err := claim(file, path); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// claim marks what is open as file, for as long as it is, and sees to it that path still leads
// there.
func claim(file *os.File, path string) error {
	// A sweep holds the lock while it removes, and not for long: there is nothing in a thing this
	// new.
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("claim %s: %w", path, err)
	}
	mine, err := file.Stat()
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, there) {
		return ErrGone
	}
	return err
}

// RemoveUnclaimed calls remove for what nobody fills; it leaves alone what somebody does.
func RemoveUnclaimed(path string, remove func(path string) error) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	return remove(path)
}
