package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

// anotherBuild makes a banger that differs from the one under test, beside the same other programs.
func (h *home) anotherBuild() (path string) {
	h.t.Helper()
	dir := filepath.Join(h.dir, "other")
	for _, name := range []string{"banger-guest", "firecracker-qemu"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			h.t.Fatal(err)
		}
		if err := os.Link(filepath.Join(binDir, name), filepath.Join(dir, name)); err != nil {
			h.t.Fatal(err)
		}
	}
	path = filepath.Join(dir, "banger")
	if out, err := buildProgram(path, "banger", "-gcflags=banger/cmd/banger=-N"); err != nil {
		h.t.Fatalf("build another banger: %v\n%s", err, out)
	}
	return path
}

// TestDaemonReplaced: a daemon of another build makes way, its VMs and an open session go on.
func TestDaemonReplaced(t *testing.T) {
	h := newHome(t)
	h.banger("run", "-d", "--name", "steady")
	old := h.daemon()
	session := h.command(t.Context(), "exec", "-i", "steady", "--", "cat")
	stdin, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	echo := func(line string) {
		t.Helper()
		if _, err := stdin.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len(line))
		if _, err := stdout.Read(answer); err != nil || string(answer) != line {
			t.Fatalf("the session answers %q, %v; want %q", answer, err, line)
		}
	}
	echo("before\n")

	newer := h.command(t.Context(), "exec", "steady", "--", "echo", "new")
	newer.Path = h.anotherBuild()
	if out, err := newer.CombinedOutput(); err != nil || string(out) != "new\n" {
		t.Fatalf("the other build's exec: %v\n%s", err, out)
	}
	echo("after\n")
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := session.Wait(); err != nil {
		t.Errorf("the session of the old daemon: %v", err)
	}
	eventually(t, "the old daemon ends", func() bool { return syscall.Kill(old.PID, 0) != nil })
	h.wantState("steady", api.StateRunning, "")
}

// TestDaemonReplacedWhileBusy: while a pull, a build, a load, a start and a stop are under way,
// another build's ls answers at once, and nothing of what is under way is lost.
func TestDaemonReplacedWhileBusy(t *testing.T) {
	h := newHome(t)
	newer := h.anotherBuild()
	archive := filepath.Join(t.TempDir(), "image.tar.zst")
	h.banger("image", "save", "debian:trixie", "-o", archive)
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	registry, source := registryWithBusybox(t)
	registry.hang.Store(true)
	h.banger("create", "--name", "up")
	h.banger("run", "-d", "--name", "down")

	script := filepath.Join(t.TempDir(), "slow.sh")
	write(t, script, "#!/bin/sh\necho provisioning; while [ ! -e /run/go-on ]; do sleep 1; done\n")
	_, built := h.begin("image", "build", "built", "--script", script)
	within(t, commandTimeout, "the build's script", func() bool { // which comes after packages
		return strings.Contains(h.try("image", "logs", "built").stdout, "\nprovisioning\n")
	})
	_, pulled := h.begin("image", "pull", source)
	eventually(t, "the pull waits for a layer", func() bool { return registry.waiting.Load() > 0 })
	load := h.command(t.Context(), "image", "load", "--name", "loaded", "-")
	feed, err := load.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	load.Stdout, load.Stderr = &said, &said
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := feed.Write(content[:len(content)/2]); err != nil {
		t.Fatal(err)
	}
	_, started := h.begin("start", "up")
	_, stopped := h.begin("stop", "down")
	eventually(t, "start and stop are under way", func() bool {
		return h.anyVMState(api.StateStarting) && h.anyVMState(api.StateStopping)
	})

	old := h.daemon()
	began := time.Now()
	ls := h.command(t.Context(), "ls")
	ls.Path = newer
	if out, err := ls.CombinedOutput(); err != nil || !strings.Contains(string(out), "down") {
		t.Fatalf("the other build's ls: %v\n%s", err, out)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the other build's ls took %s", took)
	}
	if now := h.daemon(); now.PID != old.PID || !now.Draining || len(now.Left) < 3 {
		t.Errorf("the old daemon: pid %d, draining %t, left %q; want pid %d, which still has work", now.PID, now.Draining, now.Left, old.PID)
	}
	// By the daemon that is being replaced: a session is no change.
	h.banger("exec", "build-built", "--", "touch", "/run/go-on")
	close(registry.resume)
	if _, err := feed.Write(content[len(content)/2:]); err != nil {
		t.Error(err)
	}
	feed.Close()
	if err := load.Wait(); err != nil {
		t.Errorf("image load: %v\n%s", err, said.String())
	}
	for name, wait := range map[string]func() result{"image build": built, "image pull": pulled, "start": started, "stop": stopped} {
		if r := wait(); r.code != 0 {
			t.Errorf("%s: exit status %d\n%s", name, r.code, r.stderr)
		}
	}
	eventually(t, "the old daemon ends", func() bool { return syscall.Kill(old.PID, 0) != nil })
	// Whoever wanted its end has not waited: it has started the next one itself, for the machines'
	// forwards.
	eventually(t, "a daemon runs without a command", func() bool { return h.try("daemon", "status").code == 0 })
	h.wantState("up", api.StateRunning, "")
	h.wantState("down", api.StateStopped, "")
	for _, image := range []string{"built", "loaded", source} {
		h.image(image)
	}
	h.nothingHalfMade()
}
