package namespace

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"banger/internal/home"
	"banger/internal/network"
)

// start starts a process in a network namespace of its own, with a word of the test's on its
// command line, until the test ends.
func start(t *testing.T, word string, open ...*os.File) (pid int) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", "-c", "echo; read line", word)
	command.ExtraFiles = open
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	_, err := command.StdinPipe() // is not written to
	check(t, err)
	out, err := command.StdoutPipe()
	check(t, err)
	check(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	_, err = out.Read(make([]byte, 1)) // it runs
	check(t, err)
	return command.Process.Pid
}

// A process is taken for a VMM of the home by what it holds open there, and not by what it says of
// itself.
func TestFindOrphan(t *testing.T) {
	h := home.Dir(t.TempDir())
	d := network.HomeDir(h)
	folder := h.VM("id-one")
	check(t, os.MkdirAll(folder, 0o700))
	lock, err := os.Create(filepath.Join(folder, "lock"))
	check(t, err)
	defer lock.Close()
	elsewhere, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	check(t, err)
	defer elsewhere.Close()

	start(t, filepath.Join(folder, "api.sock"), elsewhere)
	if got := findOrphan(d); got != 0 {
		t.Errorf("process %d says that it is a VMM, and was believed", got)
	}
	want := start(t, "vmm", lock)
	if got := findOrphan(d); got != want {
		t.Errorf("got %d, want the process %d that holds the lock", got, want)
	}
}
