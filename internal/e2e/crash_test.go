package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/api"
)

// TestDaemonKilled: a VM lives on when its daemon is killed, and the next command finds it.
func TestDaemonKilled(t *testing.T) {
	h := newHome(t)
	h.banger("run", "-d", "--name", "survivor")
	before := h.vm("survivor")
	old := h.daemon()
	if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out := h.banger("exec", "survivor", "--", "echo", "alive"); out != "alive\n" {
		t.Errorf("exec says %q", out)
	}
	after := h.vm("survivor")
	if after.VMM == nil || before.VMM == nil || *after.VMM != *before.VMM {
		t.Errorf("VMM is %v, was %v", after.VMM, before.VMM)
	}
	if now := h.daemon(); now.PID == old.PID {
		t.Errorf("the daemon still has pid %d", old.PID)
	}
	h.banger("stop", "survivor")
	h.wantState("survivor", api.StateStopped, "stopped")
}

// TestVMMKilled: the VM is stopped, says why, and has lost nothing that was synced.
func TestVMMKilled(t *testing.T) {
	h := newHome(t)
	h.banger("run", "-d", "--name", "victim")
	h.banger("exec", "victim", "--", "sh", "-c", "echo kept > /root/file; sync")
	if err := syscall.Kill(h.vm("victim").VMM.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.banger("wait", "victim", "--for", "stopped", "--timeout", "1m")
	h.wantState("victim", api.StateStopped, "vmm died")
	h.banger("start", "victim")
	if out := h.banger("exec", "victim", "--", "cat", "/root/file"); out != "kept\n" {
		t.Errorf("the file holds %q", out)
	}
}

// TestBothKilled: the VMM dies while no daemon runs; the next one says so.
func TestBothKilled(t *testing.T) {
	h := newHome(t)
	h.banger("run", "-d", "--name", "victim")
	vmm := h.vm("victim").VMM.PID
	for _, pid := range []int{h.daemon().PID, vmm} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	h.wantState("victim", api.StateStopped, "vmm died")
}

// TestGuestNeverAnswers: a start ends at its deadline and leaves nothing running.
func TestGuestNeverAnswers(t *testing.T) {
	h := newHome(t, "BANGER_BOOT_TIMEOUT=1s") // less than any boot under emulation takes
	h.fails(1, "did not answer within 1s", "run", "-d", "--name", "slow")
	h.wantState("slow", api.StateStopped, "did not answer")
}

// TestBootFails: a guest that cannot boot says why on its console, which the error shows.
func TestBootFails(t *testing.T) {
	h := newHome(t)
	h.banger("create", "--name", "mute")
	// A disk without a filesystem: the guest's init finds no place for its root and says so.
	disk := filepath.Join(h.vm("mute").Dir, "disk.ext4")
	if err := os.Truncate(disk, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	r := h.try("start", "mute")
	if r.code != 1 || !strings.Contains(r.stderr, "wait for agent") || !strings.Contains(r.stderr, "console ends:") || !strings.Contains(r.stderr, "banger-guest: ") {
		t.Errorf("start: %+v", r)
	}
	h.wantState("mute", api.StateStopped, "start machine mute")
}
