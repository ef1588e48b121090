package firecracker

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger/internal/qemu/qemutest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// build returns firecracker-qemu.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "firecracker-qemu")
	if out, err := exec.CommandContext(testContext(t), "go", "build", "-o", binary, "banger/cmd/firecracker-qemu").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // not earlier: the compiler's cache is there too
	return binary
}

// script is a VMM that is none.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmm")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func command(t *testing.T, binary string) Command {
	dir := t.TempDir()
	return Command{Binary: binary, ID: "test", APISocket: filepath.Join(dir, "api"), LogFile: filepath.Join(dir, "log")}
}

func TestStart(t *testing.T) {
	c := command(t, build(t))
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	c.Lock = lock
	ctx, cancel := context.WithCancel(testContext(t))
	p, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	cancel() // the VMM depends on ctx no more
	lock.Close()

	info, err := NewClient(c.APISocket).Info(testContext(t))
	if err != nil || info.ID != "test" || info.State != StateNotStarted {
		t.Errorf("got %+v, %v", info, err)
	}
	var fault *Fault
	if err := NewClient(c.APISocket).InstanceStart(testContext(t)); !errors.As(err, &fault) || !strings.Contains(fault.Message, "without kernel") {
		t.Errorf("start without a kernel: got %v, want a Fault", err)
	}
	if session, err := unix.Getsid(p.PID()); session != p.PID() {
		t.Errorf("session is %d, %v; want its own", session, err)
	}
	if !locked(t, path) {
		t.Error("the VMM does not hold the lock")
	}

	adopted, err := Attach(p.PID(), p.StartTicks())
	if err != nil {
		t.Fatal(err)
	}
	defer adopted.Release()
	if _, err := Attach(p.PID(), p.StartTicks()+1); !errors.Is(err, ErrGone) {
		t.Errorf("another start time: got %v, want ErrGone", err)
	}
	if found, err := AttachSocket(c.APISocket); err != nil || found.PID() != p.PID() {
		t.Errorf("by socket: got %v", err)
	} else {
		found.Release()
	}
	if err := adopted.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	<-adopted.Done()
	if code, known := p.ExitCode(); code == 0 || !known {
		t.Errorf("exit code after SIGTERM: %d, %v", code, known)
	}
	if _, known := adopted.ExitCode(); known {
		t.Error("an adopted process cannot know its exit code")
	}
	if err := p.Kill(); err != nil {
		t.Errorf("Kill after the end: %v", err)
	}
	if locked(t, path) {
		t.Error("the lock outlives the VMM")
	}
	if _, err := Attach(p.PID(), p.StartTicks()); !errors.Is(err, ErrGone) {
		t.Errorf("after the end: got %v, want ErrGone", err)
	}
}

func locked(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func TestStartFails(t *testing.T) {
	tests := []struct{ name, binary, want string }{
		{"missing", "/nonexistent/vmm", "no such file"},
		{"dies at once", script(t, "echo no luck; exit 3"), "no luck"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Start(testContext(t), command(t, tt.binary)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	t.Run("never answers", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := Start(ctx, command(t, script(t, "exec sleep 60"))); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}

func TestTrialBoot(t *testing.T) {
	binary := build(t)
	if err := TrialBoot(testContext(t), binary, qemutest.Kernel(t)); err != nil {
		t.Error(err)
	}
	if err := TrialBoot(testContext(t), binary, "/etc/passwd"); err == nil {
		t.Error("a kernel that is none booted")
	}
	if err := TrialBoot(testContext(t), script(t, "exit 0"), qemutest.Kernel(t)); err == nil {
		t.Error("a VMM that is none booted")
	}
}

func TestParseStartTicks(t *testing.T) {
	stat := "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1"
	if got, err := parseStartTicks([]byte(stat)); got != 98765 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := parseStartTicks([]byte("12 (a) S 1")); err == nil {
		t.Error("too few fields were accepted")
	}
}

func FuzzParseStartTicks(f *testing.F) {
	f.Add([]byte("1 (x) S"))
	f.Fuzz(func(t *testing.T, stat []byte) { parseStartTicks(stat) })
}
