// Package nstest lets a test change what is the whole machine's in a guest, mounts, interfaces, the
// host's name and PID 1, in namespaces of its own.
package nstest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mark names in the environment the test that is to run inside.
const mark = "BANGER_TEST_IN_NAMESPACE"

// In runs the test again in a mount namespace of its own and in those that the flags (CLONE_NEW...)
// ask for, as root: an ordinary user is that of a user namespace. It reports whether this is that
// run; the first one only waits for it, and fails as it does.
func In(t *testing.T, cloneFlags uintptr) bool {
	t.Helper()
	if inside(t) {
		return true
	}
	if out, err := again(t, cloneFlags).CombinedOutput(); err != nil {
		t.Errorf("in namespace: %v\n%s", err, out)
	}
	return false
}

// InUntil is In for a run that is to end by a signal of the kernel, as PID 1 does when it resets
// its machine: a reset in a PID namespace ends that alone. The run has the environment on top of
// this one's.
func InUntil(t *testing.T, cloneFlags uintptr, end syscall.Signal, environment ...string) bool {
	t.Helper()
	if inside(t) {
		return true
	}
	cmd := again(t, cloneFlags)
	cmd.Env = append(cmd.Env, environment...)
	out, err := cmd.CombinedOutput()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != end {
		t.Errorf("in namespace: ended with %v, want %v\n%s", err, end, out)
	}
	return false
}

func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(mark) != t.Name() {
		return false
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	return true
}

func again(t *testing.T, cloneFlags uintptr) *exec.Cmd {
	t.Helper()
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | cloneFlags}
	if os.Getuid() != 0 || cloneFlags&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}
