// Package atomicfile replaces files whole: the new content is written beside the file and takes its
// place by a rename. A reader, and whoever comes after a crash, finds the old content or the new
// one, never a part of either.
//
// A symbolic link at the path is replaced, not followed: a caller that wants the file behind it
// resolves the link first. What is neither a regular file nor a link to one, such as a device or a
// folder, is refused, for a rename would put a file in the place of /dev/null.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Durability is what the new content withstands.
type Durability int

// Both durabilities.
const (
	// Volatile content withstands the death of the program. After a power cut the file may be the
	// old one, but also empty or torn: it is for what is checked when it is read, and can be made
	// again.
	Volatile Durability = iota
	// Durable content withstands a power cut too: when the call returns, content and name are on
	// the disk.
	Durable
)

// tempPrefix names files that are being written; Sweep removes those that a crash left.
const tempPrefix = ".new-"

// Write makes the file at path hold exactly data, with that mode whatever the umask. On an error
// nothing of the new content stays, except when only the folder could not be synced: then the file
// is the new one, and not yet durable.
func Write(path string, data []byte, mode fs.FileMode, d Durability) error {
	return Fill(path, mode, d, func(file *os.File) error {
		_, err := file.Write(data)
		return err
	})
}

// Fill is Write for content that comes piece by piece: fill writes it to the new file, which nobody
// else sees yet. It may change the file's owner, and leaves it open.
func Fill(path string, mode fs.FileMode, d Durability, fill func(*os.File) error) error {
	if err := checkTarget(path); err != nil {
		return err
	}
	return put(path, mode, d, os.Rename, fill)
}

// Create is Write for a file that must not be there: otherwise it stays as it is and the error is
// fs.ErrExist. Of callers at once, one succeeds.
func Create(path string, data []byte, mode fs.FileMode, d Durability) error {
	link := func(temp, path string) error {
		if err := os.Link(temp, path); err != nil {
			return err
		}
		return os.Remove(temp)
	}
	return put(path, mode, d, link, func(file *os.File) error {
		_, err := file.Write(data)
		return err
	})
}

// put writes a file beside path and gives it that name by way of place.
func put(
	path string, mode fs.FileMode, d Durability, place func(temp, path string) error, fill func(*os.File) error,
) error {
	temp, err := writeTemp(filepath.Dir(path), mode, d, fill)
	if err != nil {
		return err
	}
	if err := place(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if d == Durable {
		return syncFolder(filepath.Dir(path))
	}
	return nil
}

func checkTarget(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("replace %s: it is no regular file", path)
	}
	return nil
}

// writeTemp writes a file into the folder and closes it; on an error it is gone.
func writeTemp(folder string, mode fs.FileMode, d Durability, fill func(*os.File) error) (_ string, err error) {
	file, err := os.CreateTemp(folder, tempPrefix) // 0600: nobody else reads a file that is to be private
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if err = claim(file, file.Name()); err == nil {
		err = fill(file)
	}
	if err == nil {
		err = file.Chmod(mode)
	}
	if err == nil && d == Durable {
		err = file.Sync()
	}
	return file.Name(), errors.Join(err, file.Close())
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Sweep removes the files in a folder that a crash left half-written; that there is no such folder
// is no error. What somebody still writes stays.
func Sweep(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep folder: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), tempPrefix) {
			errs = append(errs, RemoveUnclaimed(filepath.Join(folder, e.Name()), os.Remove))
		}
	}
	return errors.Join(errs...)
}
