//go:build images

package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// TestImageBuildFails: a script's exit code and last lines are shown, and with --keep-on-failure
// the machine is there to look around in.
func TestImageBuildFails(t *testing.T) {
	h := newHome(t)
	h.fails(1, "no image x was built here", "image", "logs", "x")
	h.fails(1, "image debian:trixie alone has", "image", "build", "x", "--size", "64MiB")
	h.fails(1, "unknown preset", "image", "build", "x", "--preset", "fat")
	h.fails(2, "needs a name", "image", "build")
	script := filepath.Join(t.TempDir(), "broken.sh")
	write(t, script, "echo one; echo trouble >&2; exit 42\n")
	_, wait := h.begin("image", "build", "x", "--script", script, "--keep-on-failure")
	if r := wait(); r.code != 1 || !strings.Contains(r.stderr, "step script broken.sh: exit status 42:") || !strings.Contains(r.stderr, "  trouble\n") || !strings.Contains(r.stderr, "banger shell build-x") {
		t.Fatalf("image build: exit status %d\n%s", r.code, r.stderr)
	}
	h.fails(1, "no image", "image", "inspect", "x")
	if out := h.banger("exec", "build-x", "--", "findmnt", "-no", "FSTYPE", "/"); out != "ext4\n" {
		t.Errorf("the kept machine's root is %q", out)
	}
	if out := h.banger("image", "logs", "x"); !strings.Contains(out, "== failed: step script broken.sh") {
		t.Errorf("the log:\n%s", out)
	}
	h.banger("rm", "-f", "build-x")
}

// TestDiskFullWhileBuilding: the build fails with the step's own words, and nothing is an image.
func TestDiskFullWhileBuilding(t *testing.T) {
	h := newHome(t)
	defer h.limitVMs("1200m")()
	script := filepath.Join(t.TempDir(), "fill.sh")
	write(t, script, "dd if=/dev/zero of=/root/file bs=1M count=1200 conv=fsync\n")
	_, wait := h.begin("image", "build", "x", "--size", "4GiB", "--script", script)
	if r := wait(); r.code != 1 || !strings.Contains(r.stderr, "step script fill.sh: exit status 1:") || !strings.Contains(r.stderr, "dd: ") {
		t.Errorf("image build: exit status %d\n%s", r.code, r.stderr)
	}
	h.fails(1, "no image", "image", "inspect", "x")
	if folders := h.vmFolders(); len(folders) != 0 {
		t.Errorf("left: %v", folders)
	}
}

// TestOpenRC boots an image whose init is sysvinit's, with OpenRC's services.
func TestOpenRC(t *testing.T) {
	h := newHome(t)
	h.banger("image", "pull", "tar:"+bootstrap(t, "sysvinit-core", "openrc", "iproute2"), "--name", "openrc")
	h.banger("run", "-d", "--name", "rc", "--image", "openrc", "--memory", "512MiB", "--wait", "booted")
	if out := h.banger("exec", "rc", "--", "sh", "-c", "cat /proc/1/comm; hostname; rc-status -r"); !strings.HasPrefix(out, "init\nrc\n") {
		t.Errorf("the machine says %q", out)
	}
	h.banger("exec", "rc", "--", "sh", "-c", "echo kept > /var/tmp/file")
	h.banger("stop", "rc")
	h.wantState("rc", api.StateStopped, "stopped")
	h.banger("start", "rc")
	if out := h.banger("exec", "rc", "--", "cat", "/var/tmp/file"); out != "kept\n" {
		t.Errorf("after stop and start the file holds %q", out)
	}
}

// bootstrap makes a tar of a Debian root with those packages and without systemd, and returns its
// path.
func bootstrap(t *testing.T, packages ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	command := exec.CommandContext(t.Context(), "mmdebstrap", "--variant=minbase", "--include="+strings.Join(packages, ","), "trixie", path, "http://deb.debian.org/debian")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	return path
}
