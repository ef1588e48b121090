package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

func TestRun(t *testing.T) {
	h := newHome(t)

	t.Run("OK", func(t *testing.T) {
		h := h.in(t)
		r := h.try("run", "--rm", "--name", "one", "--cpus", "2", "--memory", "768MiB", "-e", "GREETING=hello there", "--", "sh", "-c",
			`echo "$GREETING from $(hostname), $(nproc) cpus, $(awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo) MiB"; echo oops >&2; exit 7`)
		if r.code != 7 {
			t.Fatalf("exit status %d, want 7\n%s", r.code, r.stderr)
		}
		if want := "hello there from one, 2 cpus, 7"; !strings.HasPrefix(r.stdout, want) {
			t.Errorf("standard output %q, want it to begin with %q", r.stdout, want)
		}
		for _, want := range []string{"oops\n", "make disk: ", "wait for agent: "} {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("standard error lacks %q:\n%s", want, r.stderr)
			}
		}
		if out := h.banger("ls", "--json"); strings.TrimSpace(out) != "[]" {
			t.Errorf("machines are left: %s", out)
		}
	})

	t.Run("OKPipe", func(t *testing.T) {
		h := h.in(t)
		ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
		defer cancel()
		r := h.run(ctx, strings.NewReader("a\nb\nc\n"), "run", "--rm", "-q", "--", "wc", "-l")
		if r.code != 0 || strings.TrimSpace(r.stdout) != "3" || r.stderr != "" {
			t.Errorf("got %+v, want 3 and nothing on standard error", r)
		}
	})

	t.Run("OKSignal", func(t *testing.T) {
		h := h.in(t)
		r := h.try("run", "--rm", "--", "sh", "-c", "kill -TERM $$")
		if want := 128 + int(syscall.SIGTERM); r.code != want {
			t.Errorf("exit status %d, want %d\n%s", r.code, want, r.stderr)
		}
	})

	t.Run("OKBooted", func(t *testing.T) {
		h := h.in(t)
		r := h.try("run", "--rm", "--wait", "booted", "--", "systemctl", "list-units", "--failed", "--no-legend", "--plain")
		if r.code != 0 || strings.TrimSpace(r.stdout) != "" {
			t.Errorf("exit status %d, failed units: %q\n%s", r.code, r.stdout, r.stderr)
		}
	})

	t.Run("OKNotFound", func(t *testing.T) {
		h := h.in(t)
		if r := h.try("run", "--rm", "--", "no-such-command"); r.code != 127 || !strings.Contains(r.stderr, "no-such-command") {
			t.Errorf("got %+v, want exit status 127", r)
		}
	})
}

// TestRunInterrupted presses Ctrl-C at each stage of run and wants the exit code of an interrupt
// and nothing left.
func TestRunInterrupted(t *testing.T) {
	h := newHome(t)
	for _, stage := range []struct {
		name string
		when func(h *home) bool // whether the run has come so far
	}{
		{"create", func(h *home) bool { return len(h.vmFolders()) > 0 }},
		{"VMM", func(h *home) bool { return h.anyVMFile("api.sock") }},
		{"boot", func(h *home) bool { return h.anyVMFile("console.log") }},
		{"command", func(h *home) bool { return h.anyVMState(api.StateRunning) }},
	} {
		t.Run(stage.name, func(t *testing.T) {
			h := h.in(t)
			ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
			defer cancel()
			command := h.command(ctx, "run", "--rm", "--", "sleep", "1000")
			stdin, err := command.StdinPipe() // stays open, as a terminal does
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			command.Stderr = os.Stderr
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "stage "+stage.name, func() bool { return stage.when(h) })
			if err := command.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			_ = command.Wait()
			if code := command.ProcessState.ExitCode(); code != 130 {
				t.Errorf("exit status %d, want 130", code)
			}
			eventually(t, "nothing left", func() bool { return len(h.vmFolders()) == 0 && !h.anyVMState("") })
		})
	}
}

// TestRunInterruptedWhileBuilding presses Ctrl-C while the image of a first run is built: nothing
// half-made is left.
func TestRunInterruptedWhileBuilding(t *testing.T) {
	h := emptyHome(t)
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	command := h.command(ctx, "run", "--rm", "--", "true")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	halfMade := func() []string {
		found, err := filepath.Glob(filepath.Join(h.dir, "images", "*", "rootfs.ext4"))
		hidden, err2 := filepath.Glob(filepath.Join(h.dir, "images", ".*", "rootfs.ext4"))
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return append(found, hidden...)
	}
	eventually(t, "the image is being built", func() bool { return len(halfMade()) > 0 })
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit status %d, want 130", code)
	}
	eventually(t, "nothing half-made is left", func() bool { return len(halfMade()) == 0 })
	if out := h.banger("image", "ls", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("images: %s", out)
	}
}

// TestRunKilled kills the client of a run --rm: the daemon removes the VM.
func TestRunKilled(t *testing.T) {
	h := newHome(t)
	command := h.command(t.Context(), "run", "--rm", "--", "sleep", "1000")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "running", func() bool { return h.anyVMState(api.StateRunning) })
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	eventually(t, "nothing left", func() bool { return len(h.vmFolders()) == 0 && !h.anyVMState("") })
}

// eventually polls until the condition holds; what it waits for has no event of its own.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	within(t, 90*time.Second, what, condition)
}

func within(t *testing.T, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(10 * time.Millisecond) // polls until the deadline
	}
}

func (h *home) vmFolders() []string {
	found, _ := filepath.Glob(filepath.Join(h.dir, "vms", "*")) // the pattern is right
	return found
}

func (h *home) anyVMFile(name string) bool {
	found, _ := filepath.Glob(filepath.Join(h.dir, "vms", "*", name))
	return len(found) > 0
}

// anyVMState reports whether a VM has that state, or, when it is empty, whether there is one at
// all. It asks the daemon's API, which starts no daemon.
func (h *home) anyVMState(state api.State) bool {
	client := api.NewClient(filepath.Join(h.dir, "daemon.sock"))
	defer client.CloseIdle()
	vms, err := client.Machines(h.t.Context())
	if err != nil {
		return false
	}
	for _, vm := range vms {
		if state == "" || vm.State == state {
			return true
		}
	}
	return false
}
