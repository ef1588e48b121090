// Package nstest lets a test change what is the whole machine's in a guest, mounts, interfaces and the host's name, in
// namespaces of its own.
package nstest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// In runs the test again as root of mount and user namespaces of its own, and of those that the flags (CLONE_NEW...) ask
// for, and reports whether this is that run. The first run only waits for it, and fails as it does.
func In(t *testing.T, cloneFlags uintptr) bool {
	t.Helper()
	const mark = "BANGER_TEST_IN_NAMESPACE"
	if os.Getenv(mark) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | cloneFlags}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in namespace: %v\n%s", err, out)
	}
	return false
}
