package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// begin starts a command and returns a function that waits for its end.
func (h *home) begin(args ...string) (interrupt func(), wait func() result) {
	h.t.Helper()
	command := h.command(h.t.Context(), args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Start(); err != nil {
		h.t.Fatal(err)
	}
	return func() { _ = command.Process.Signal(os.Interrupt) }, func() result {
		_ = command.Wait() // the exit code tells
		return result{stdout.String(), stderr.String(), command.ProcessState.ExitCode()}
	}
}

// write makes a file in a folder of the test's.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestImageBuild builds an image as banger.toml says it: what a package, a file and a script left
// is in its VMs, also below /home and /root; what differs between VMs is not. The same build again
// does nothing.
func TestImageBuild(t *testing.T) {
	h := newHome(t)
	project := t.TempDir()
	write(t, filepath.Join(project, "setup.sh"), "#!/bin/bash\nset -eu\ncat /etc/mine/conf\nmkdir -p /home/me\necho built > /home/me/file\necho root > /root/file\necho over\n")
	write(t, filepath.Join(project, "my conf"), "configured\n")
	write(t, filepath.Join(project, "banger.toml"), "name = 'mine'\npackage = ['jq']\nscript = ['setup.sh']\nfile = ['my conf:/etc/mine/conf']\n")
	config := filepath.Join(project, "banger.toml")

	_, wait := h.begin("image", "build", "-f", config)
	eventually(t, "the build's log", func() bool {
		return strings.Contains(h.try("image", "logs", "mine").stdout, "== mount")
	})
	h.fails(1, "image mine is being built already", "image", "build", "mine")
	if v := h.vm("build-mine"); v.BuildsImage != "mine" || !v.Isolated {
		t.Errorf("the build's machine is %+v", v)
	}
	_, logged := h.begin("image", "logs", "-f", "mine")
	if r := wait(); r.code != 0 || r.stdout != "mine\n" || !strings.Contains(r.stderr, "configured\nover\n") || !strings.Contains(r.stderr, "step packages: ") {
		t.Fatalf("image build: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := logged(); r.code != 0 || !strings.Contains(r.stdout, "configured\nover\n") || !strings.Contains(r.stdout, "== built mine") {
		t.Errorf("the log that was followed: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if folders := h.vmFolders(); len(folders) != 0 {
		t.Errorf("the build left %v", folders)
	}

	made := h.image("mine")
	has := func(name string) bool {
		for _, p := range made.Packages {
			if strings.HasPrefix(p, name+" ") {
				return true
			}
		}
		return false
	}
	if made.Preset != "base" || made.Stale || made.Architecture != "amd64" || !has("jq") || !has("systemd") {
		t.Errorf("the image is %+v", made)
	}
	began := time.Now()
	h.banger("image", "build", "-f", config)
	if again := h.image("mine"); again.ID != made.ID || time.Since(began) > 5*time.Second {
		t.Errorf("the same build again took %s and gave %s, was %s", time.Since(began), again.ID, made.ID)
	}

	h.banger("run", "-d", "--name", "first", "--image", "mine", "--wait", "booted")
	const look = `cat /etc/mine/conf /home/me/file /root/file; echo '{"a":1}' | jq -c .a; systemctl is-system-running
		findmnt -no FSTYPE /tmp; ls /usr/sbin/policy-rc.d 2>&1 | grep -c 'No such'; cat /proc/sys/net/bridge/bridge-nf-call-iptables
		hostname -f; cut -c1 /etc/machine-id | wc -l; stat -c %a /root/.ssh/authorized_keys; git config --system init.defaultBranch`
	if out := h.banger("exec", "first", "--", "sh", "-c", look); out != "configured\nbuilt\nroot\n1\nrunning\ntmpfs\n1\n1\nfirst.vm\n1\n600\nmain\n" {
		t.Errorf("in a machine of the image:\n%s", out)
	}
}

// TestImageBuildCut: a build that is interrupted, or whose daemon is killed, leaves nothing, at
// once or with the next daemon.
func TestImageBuildCut(t *testing.T) {
	h := newHome(t)
	untilPackages := func() {
		t.Helper()
		eventually(t, "the build's packages", func() bool {
			return strings.Contains(h.try("image", "logs", "x").stdout, "== packages")
		})
	}
	interrupt, wait := h.begin("image", "build", "x")
	untilPackages()
	interrupt()
	if r := wait(); r.code != 130 {
		t.Errorf("interrupted: exit status %d\n%s", r.code, r.stderr)
	}
	eventually(t, "nothing is left", func() bool { return len(h.vmFolders()) == 0 })

	_, wait = h.begin("image", "build", "x")
	eventually(t, "the second build", func() bool {
		log := h.try("image", "logs", "x").stdout
		return strings.Contains(log, "== packages") && !strings.Contains(log, "== failed")
	})
	if err := syscall.Kill(h.daemon().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := wait(); r.code != 1 {
		t.Errorf("without its daemon: exit status %d\n%s", r.code, r.stderr)
	}
	// starts a daemon, which removes what it finds
	if out := h.banger("ls", "-q", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("left: %s", out)
	}
	if folders := h.vmFolders(); len(folders) != 0 {
		t.Errorf("left: %v", folders)
	}
	h.fails(1, "no image", "image", "inspect", "x")
}
