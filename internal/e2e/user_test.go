package e2e

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// ordinaryUser is made by the test when it is missing, and stays: it owns nothing.
const ordinaryUser = "banger-e2e"

// TestOrdinaryUser builds the image, boots and removes a VM as a user without any rights, on a machine that never ran
// banger for that user.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("already an ordinary user: the other tests are this one")
		return
	}
	if _, err := user.Lookup(ordinaryUser); err != nil {
		if out, err := exec.CommandContext(t.Context(), "useradd", "--create-home", "--shell", "/bin/bash", ordinaryUser).CombinedOutput(); err != nil {
			t.Fatalf("make user: %v\n%s", err, out)
		}
	}
	h := emptyHome(t)
	if out, err := exec.CommandContext(t.Context(), "chown", ordinaryUser, h.dir).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v\n%s", err, out)
	}
	as := func(args ...string) (string, error) {
		words := append([]string{
			"-u", ordinaryUser, "--", "env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + h.dir, "BANGER_HOME=" + h.dir, "TERM=xterm", filepath.Join(binDir, "banger"),
		}, args...)
		out, err := exec.CommandContext(t.Context(), "runuser", words...).CombinedOutput()
		return string(out), err
	}
	out, err := as("run", "--rm", "-q", "--name", "mine", "--", "sh", "-c", "id -un; getent hosts mine.vm >/dev/null && ping -q -c 1 -W 10 172.30.0.1 >/dev/null && hostname -f")
	if err != nil || !strings.HasSuffix(out, "root\nmine.vm\n") {
		t.Errorf("run as %s: %v\n%s", ordinaryUser, err, out)
	}
	// ssh from the host's side and a service of the host's from the guest's, neither with any rights.
	port := hostService(t)
	if out, err := as("run", "-d", "-q", "--name", "box", "--host-service", port); err != nil {
		t.Errorf("run as %s: %v\n%s", ordinaryUser, err, out)
	}
	if out, err := as("ssh", "box", "--", "id -un; curl -sS --max-time 5 http://172.30.0.1:"+port+"; exit 7"); err == nil || err.Error() != "exit status 7" || out != "root\nhello 127.0.0.1\n" {
		t.Errorf("ssh as %s: %v\n%s", ordinaryUser, err, out)
	}
	if out, err := as("rm", "-f", "box"); err != nil {
		t.Errorf("rm as %s: %v\n%s", ordinaryUser, err, out)
	}
	if out, err := as("image", "ls"); err != nil || !strings.Contains(out, "debian:trixie") {
		t.Errorf("image ls: %v\n%s", err, out)
	}
	if out, err := as("daemon", "stop"); err != nil {
		t.Errorf("daemon stop: %v\n%s", err, out)
	}
}
