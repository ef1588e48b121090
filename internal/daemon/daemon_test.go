package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/config"
	"banger/internal/home"
)

// running is a daemon in this process.
type running struct {
	config config.Config
	client *api.Client
	cancel context.CancelFunc
	ended  chan error
}

// start runs a daemon on a home folder and returns when it answers.
func start(t *testing.T, dir home.Dir) *running {
	t.Helper()
	c := config.Config{
		Home:        dir,
		Image:       "debian:trixie",
		Kernel:      "debian:trixie",
		CPUs:        1,
		MemoryMiB:   128,
		DiskMiB:     64,
		VMM:         "auto",
		BootTimeout: time.Second,
		StopTimeout: time.Second,
	}
	return startWith(t, Options{Config: c, Log: slog.New(slog.DiscardHandler)})
}

func startWith(t *testing.T, o Options) *running {
	t.Helper()
	c := o.Config
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{config: c, client: api.NewClient(c.Home.Socket()), cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		r.client.CloseIdle()
	})
	patience, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := r.client.Status(patience); err == nil {
			return r
		}
		select {
		case <-tick.C:
		case err := <-r.ended:
			t.Fatalf("the daemon ended: %v", err)
		case <-patience.Done():
			t.Fatal("the daemon does not answer")
		}
	}
}

func (r *running) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("Run = %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the daemon does not end")
	}
}

// shortDir returns a folder whose path leaves room for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestRun(t *testing.T) {
	dir := home.Dir(filepath.Join(shortDir(t), "made"))
	r := start(t, dir)
	status, err := r.client.Status(t.Context())
	if err != nil || status.PID != os.Getpid() || status.Home != string(dir) || status.API != api.Version || status.Build == "" ||
		status.RSSBytes == 0 {
		t.Errorf("Status = %+v, %v", status, err)
	}
	for path, want := range map[string]os.FileMode{string(dir): 0o700, dir.Socket(): 0o600, dir.Database(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, want)
		}
	}
	if vms, err := r.client.Machines(t.Context()); vms == nil || len(vms) != 0 || err != nil {
		t.Errorf("machines = %#v, %v; want an empty list", vms, err)
	}
	for name, err := range map[string]error{
		"machine": second(r.client.Machine(t.Context(), "web")), "StartMachine": second(r.client.StartMachine(t.Context(), api.StartMachine{Machine: "web"}, nil)), "StopMachine": second(r.client.StopMachine(t.Context(), api.StopMachine{Machine: "web"}, nil)),
		"KillMachine": second(r.client.KillMachine(t.Context(), api.KillMachine{Machine: "web"})), "RemoveMachine": r.client.RemoveMachine(t.Context(), api.RemoveMachine{Machine: "web", Force: true}), "StatsMachine": second(r.client.StatsMachine(t.Context(), "web")),
		"Logs": second(r.client.Logs(t.Context(), api.Logs{Machine: "web"})), "ReadFiles": second(r.client.ReadFiles(t.Context(), api.Files{Machine: "web", Path: "/"})), "WriteFiles": r.client.WriteFiles(t.Context(), api.Files{Machine: "web", Path: "/"}, strings.NewReader("")),
		"Exec": second(r.client.Exec(t.Context(), api.Exec{Machine: "web", Argv: []string{"true"}})), "WaitMachine": second(r.client.WaitMachine(t.Context(), api.WaitMachine{Machine: "web", For: api.WaitRunning})),
		"LeaseMachine": r.client.LeaseMachine(t.Context(), "web"), "RemoveImage": r.client.RemoveImage(t.Context(), "x"), "RemoveKernel": r.client.RemoveKernel(t.Context(), "x"),
	} {
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeNotFound || (e.Hint == "" && len(e.Remedies) == 0) {
			t.Errorf("%s of nothing = %v, want not found with a hint", name, err)
		}
	}
	if _, err := r.client.StopMachine(t.Context(), api.StopMachine{Machine: "web", TimeoutMS: -1}, nil); api.CodeOf(
		err,
	) != api.CodeInvalid {
		t.Errorf("StopMachine with a negative timeout = %v", err)
	}
	if _, err := r.client.CreateMachine(t.Context(), api.CreateMachine{Name: "Bad"}, nil); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("CreateMachine with a bad name = %v", err)
	}
	r.cancel()
	r.wait(t)
	if _, err := os.Stat(dir.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestTwoDaemons(t *testing.T) {
	dir := home.Dir(shortDir(t))
	first := start(t, dir)
	err := Run(t.Context(), Options{Config: first.config, Log: slog.New(slog.DiscardHandler)})
	if e, _ := errors.AsType[*api.Error](err); e == nil || e.Code != api.CodeConflict ||
		!strings.Contains(e.Message, "another daemon (pid ") ||
		(e.Hint == "" && len(e.Remedies) == 0) {
		t.Errorf("the second daemon = %v, want conflict with the first one's pid and a hint", err)
	}
	if _, err := first.client.Status(t.Context()); err != nil {
		t.Errorf("the first daemon suffered: %v", err)
	}
	for _, drain := range []bool{false, true} {
		if err := first.client.StopDaemon(t.Context(), api.StopDaemon{Drain: drain}); err != nil {
			t.Errorf("StopDaemon(drain %t) = %v", drain, err)
		}
		next := start(t, dir) // at once: the answer says that the folder is free
		first.client.CloseIdle()
		first.wait(t)
		first = next
	}
	first.cancel()
	first.wait(t)
}

// A daemon that was killed leaves its socket and lock file behind; the next one takes over.
func TestRunAfterKill(t *testing.T) {
	dir := home.Dir(shortDir(t))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir.Socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(listener.Close(), os.WriteFile(dir.Lock(), []byte("123456789\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	r := start(t, dir)
	r.cancel()
	r.wait(t)
}

// A daemon that is being killed has closed its socket, and not yet let go of the lock.
func TestRunWhileAnotherDies(t *testing.T) {
	dir := home.Dir(shortDir(t))
	unlock, err := lockHome(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := config.Config{Home: dir}
	go func() { ended <- Run(ctx, Options{Config: c, Log: slog.New(slog.DiscardHandler)}) }()
	select {
	case err := <-ended:
		t.Fatalf("the next daemon did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	unlock()
	client := api.NewClient(dir.Socket())
	defer client.CloseIdle()
	for {
		if _, err := client.Status(t.Context()); err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("the next daemon = %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the next daemon = %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	tests := []struct {
		name     string
		prepare  func(t *testing.T) (dir string)
		wantCode api.Code
		wantText string
	}{
		{
			"SocketPathTooLong",
			func(t *testing.T) string { return filepath.Join(shortDir(t), strings.Repeat("x", 100)) },
			api.CodeInvalid,
			"the kernel allows 107",
		},
		{"HomeIsFile", func(t *testing.T) string {
			path := filepath.Join(shortDir(t), "file")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, api.CodeInternal, "make home folder"},
		{"NoDatabase", func(t *testing.T) string {
			dir := home.Dir(shortDir(t))
			if err := os.WriteFile(dir.Database(), []byte(strings.Repeat("garbage ", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
			return string(dir)
		}, api.CodeInternal, "read database"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := home.Dir(tt.prepare(t))
			err := Run(t.Context(), Options{Config: config.Config{Home: dir}, Log: slog.New(slog.DiscardHandler)})
			if api.CodeOf(err) != tt.wantCode || err == nil || !strings.Contains(err.Error(), tt.wantText) {
				t.Errorf("Run = %v, want %s with %q", err, tt.wantCode, tt.wantText)
			}
			if unlock, err := lockHome(t.Context(), dir); err == nil {
				unlock()
			} else if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ENOENT) { // refused before it made the folder
				t.Errorf("the lock after a refusal: %v", err)
			}
		})
	}
}
