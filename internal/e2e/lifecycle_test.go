package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"banger/api"
)

// TestLifeCycle takes VMs through all states, several at once, with a wrong name among them.
func TestLifeCycle(t *testing.T) {
	h := newHome(t)
	h.banger("create", "--name", "ant")
	h.banger("create", "--name", "bee", "--memory", "512MiB", "--disk", "1GiB")
	h.wantState("ant", api.StateStopped, "never started")
	h.fails(1, "machine ant is stopped", "exec", "ant", "--", "true")
	h.fails(1, "banger start ant", "exec", "ant", "--", "true")

	if r := h.try("start", "ant", "nobody", "bee"); r.code != 1 || !strings.Contains(r.stderr, `no machine named "nobody"`) {
		t.Errorf("start with a wrong name among: %+v", r)
	}
	h.wantState("ant", api.StateRunning, "")
	h.wantState("bee", api.StateRunning, "")
	h.fails(1, "machine bee is running", "rm", "bee")
	if out := h.banger("exec", "bee", "--", "sh", "-c", "df -m / | awk 'NR==2 {print $2}'; hostname"); !strings.HasSuffix(out, "\nbee\n") {
		t.Errorf("bee says %q", out)
	}

	var stats []api.Stats
	if err := json.Unmarshal([]byte(h.banger("stats", "--json")), &stats); err != nil || len(stats) != 2 {
		t.Fatalf("stats: %v, %d machines", err, len(stats))
	}
	for _, s := range stats {
		if s.MemoryTotalBytes == 0 || s.MemoryUsedBytes > s.MemoryTotalBytes || s.Processes == 0 || s.HostMemoryBytes == 0 || s.HostDiskBytes == 0 {
			t.Errorf("stats of %s: %+v", s.Name, s)
		}
	}

	// Every byte written before stop is there after start, without the guest calling sync.
	h.banger("exec", "ant", "--", "sh", "-c", "head -c 5000000 /dev/urandom > /var/tmp/fresh; sha256sum < /var/tmp/fresh > /root/sum")
	sum := h.banger("exec", "ant", "--", "cat", "/root/sum")
	h.banger("stop", "ant")
	h.wantState("ant", api.StateStopped, "stopped")
	h.banger("start", "ant")
	if got := h.banger("exec", "ant", "--", "sh", "-c", "sha256sum < /var/tmp/fresh"); got != sum {
		t.Errorf("after stop and start the file's sum is %q, want %q", got, sum)
	}

	h.banger("restart", "bee")
	h.wantState("bee", api.StateRunning, "")
	h.banger("kill", "ant", "bee")
	h.wantState("ant", api.StateStopped, "killed")
	h.banger("rm", "ant", "bee")
	if out := h.banger("ls", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("machines are left: %s", out)
	}
}

// TestGuestEnds lets the guest end itself, in good and in bad ways.
func TestGuestEnds(t *testing.T) {
	h := newHome(t)
	h.banger("run", "-d", "--name", "ends", "--wait", "booted")
	for _, way := range []struct{ name, command, reason string }{
		{"poweroff", "systemctl poweroff", "guest powered off"},
		{"panic", "echo c > /proc/sysrq-trigger", "guest panicked: Kernel panic - not syncing"},
	} {
		t.Run(way.name, func(t *testing.T) {
			h := h.in(t)
			h.banger("start", "ends")
			h.try("exec", "ends", "--", "sh", "-c", way.command) // its connection may break first
			h.banger("wait", "ends", "--for", "stopped", "--timeout", "2m")
			h.wantState("ends", api.StateStopped, way.reason)
		})
	}
}
