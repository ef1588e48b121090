package qemu

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pageSize is the unit to which QEMU rounds the initrd's address down.
const pageSize = 4096

// maxInitrd bounds what is copied.
const maxInitrd = 2 << 30

// alignedInitrd opens an initrd such that its size is a multiple of a page: where it is not, the
// file is a copy with zeros behind, which the kernel skips.
//
// QEMU puts the initrd of a PVH kernel at the end of RAM, rounded down to a page, and microvm's
// firmware has put the ACPI tables into RAM's last bytes before. What the rounding leaves free, by
// chance of the initrd's size 0 to 4 KiB, is all the room the tables have: where it is too small
// the guest finds its tables overwritten, and boots without devices or hangs. A size of whole pages
// leaves 4096 bytes, enough for a machine of common size (12 devices and 8 CPUs take 2 KiB).
func alignedInitrd(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open initrd: %w", err)
	}
	info, err := f.Stat()
	if err != nil || info.Mode().IsRegular() && info.Size()%pageSize == 0 {
		return f, err
	}
	defer f.Close()
	fd, err := unix.MemfdCreate("initrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make initrd copy: %w", err)
	}
	aligned := os.NewFile(uintptr(fd), "initrd")
	size, err := io.Copy(aligned, io.LimitReader(f, maxInitrd))
	if err == nil {
		err = aligned.Truncate((size + pageSize - 1) / pageSize * pageSize)
	}
	if err != nil {
		aligned.Close()
		return nil, fmt.Errorf("copy initrd: %w", err)
	}
	return aligned, nil
}
