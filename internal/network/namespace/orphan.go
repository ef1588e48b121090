package namespace

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"banger/internal/network"
)

// findOrphan returns a VMM of the home that lives in a namespace whose holder has died, or 0. A VMM
// is known by a file of its VM's folder that it holds open, which the kernel tells. A command line
// says whatever its owner wrote there, and that might be another user who wants root's machines on
// a network of his. VMMs run in no other network namespace than the home's; the lock of the network
// keeps a second one from being made while a VMM lives.
func findOrphan(d network.Dir) (pid int) {
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 0
	}
	files := filesOfVMs(d)
	processes, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, process := range processes {
		theirs, err := os.Readlink(filepath.Join(process, "ns", "net"))
		if err != nil || theirs == ours {
			continue // it has ended, or is another's
		}
		if !holdsOpen(process, files) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(process)); err == nil {
			return pid
		}
	}
	return 0
}

// inode names a file whatever its path is.
type inode struct{ device, number uint64 }

func inodeOf(path string) (inode, bool) {
	var s syscall.Stat_t
	if syscall.Stat(path, &s) != nil {
		return inode{}, false
	}
	return inode{s.Dev, s.Ino}, true
}

// filesOfVMs are what lies in the folders of the home's VMs, which no other user can open.
func filesOfVMs(d network.Dir) map[inode]bool {
	files := map[inode]bool{}
	paths, _ := filepath.Glob(filepath.Join(d.Home().VM("*"), "*"))
	for _, path := range paths {
		if file, ok := inodeOf(path); ok {
			files[file] = true
		}
	}
	return files
}

// holdsOpen reports whether a process, by its folder in /proc, has one of the files open.
func holdsOpen(process string, files map[inode]bool) bool {
	descriptors, err := os.ReadDir(filepath.Join(process, "fd"))
	if err != nil {
		return false
	}
	for _, descriptor := range descriptors {
		if file, ok := inodeOf(filepath.Join(process, "fd", descriptor.Name())); ok && files[file] {
			return true
		}
	}
	return false
}
