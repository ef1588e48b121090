package namespace

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"banger/internal/network"
)

// findOrphan returns a VMM of the home that lives in a namespace whose holder has died, or 0. VMMs are known by the
// path of their VM's folder in their command line, and run in no other network namespace than the home's; the lock of
// the network keeps a second one from being made while a VMM lives.
func findOrphan(d network.Dir) (pid int) {
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 0
	}
	vms := []byte(filepath.Join(filepath.Dir(string(d)), "vms") + "/")
	folders, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, folder := range folders {
		line, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		if err != nil || !bytes.Contains(line, vms) {
			continue // it has ended, or is another's
		}
		theirs, err := os.Readlink(filepath.Join(folder, "ns", "net"))
		if err != nil || theirs == ours {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(folder)); err == nil {
			return pid
		}
	}
	return 0
}
