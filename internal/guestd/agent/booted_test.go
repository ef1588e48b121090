package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/guestd/system"
	agentv1 "banger/proto/agent/v1"
)

// Each kind of init has its way to say that it has booted; what none is known of counts as booted
// at once.
func TestBootWaiter(t *testing.T) {
	for kind, waits := range map[string]bool{
		system.InitSystemd: true, system.InitOpenRC: true, system.InitSysvinit: true, system.InitBusybox: true,
		system.InitNone: false, system.InitOther: false, "": false,
	} {
		wait := bootWaiter(Config{Record: system.Record{Init: kind}, Root: t.TempDir()})
		if got := wait != nil; got != waits {
			t.Errorf("%q: waits %v, want %v", kind, got, waits)
		}
		if wait == nil {
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if state := wait(ctx); state != "" {
			t.Errorf("%q: a wait that was broken off says %q", kind, state)
		}
	}
}

// fakeSystemctl answers what is left of the words in a file, one a call.
func fakeSystemctl(t *testing.T, answers ...string) {
	t.Helper()
	bin := t.TempDir()
	script := `#!/bin/sh
[ "$*" = "is-system-running --wait" ] || exit 9
word=$(head -n 1 ` + bin + `/answers); sed -i 1d ` + bin + `/answers
echo "$word"; [ "$word" = running ]`
	if err := errors.Join(os.WriteFile(bin+"/systemctl", []byte(script), 0o755),
		os.WriteFile(bin+"/answers", []byte(strings.Join(answers, "\n")+"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// systemctl is asked once there is somebody whom it can ask, and again while the answer is none.
func TestWaitSystemd(t *testing.T) {
	tests := []struct {
		name    string
		answers []string
		want    string
	}{
		{"Running", []string{"running"}, "running"},
		{"Degraded", []string{"degraded"}, "degraded"},
		{"Maintenance", []string{"maintenance"}, "maintenance"},
		{"NotYet", []string{"offline", "running"}, "running"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fakeSystemctl(t, tt.answers...)
			run := t.TempDir()
			got := make(chan string, 1)
			go func() { got <- waitSystemd(t.Context(), run) }()
			if err := os.WriteFile(filepath.Join(run, "private"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if state := <-got; state != tt.want {
				t.Errorf("got %q, want %q", state, tt.want)
			}
		})
	}
}

// Between two tries, and while nobody is there, the end of the agent ends the wait.
func TestWaitSystemdEnds(t *testing.T) {
	fakeSystemctl(t, "offline")
	run := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, 1)
	go func() { got <- waitSystemd(ctx, run) }()
	if err := os.WriteFile(filepath.Join(run, "private"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cancel()
	if state := <-got; state != "" {
		t.Errorf("got %q", state)
	}
}

// The agent tells of the boot from the moment on at which it has happened, and a caller who left
// waits no longer.
func TestWaitBooted(t *testing.T) {
	root := t.TempDir()
	server := New(Config{Record: system.Record{Init: system.InitOpenRC}, Root: root, Log: slog.New(slog.DiscardHandler)})
	defer server.Close()
	booted := func() bool {
		health, err := server.Health(t.Context(), &agentv1.HealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return health.Booted
	}
	if booted() {
		t.Error("booted before the init says so")
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	if _, err := server.WaitBooted(left, &agentv1.WaitBootedRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	if err := errors.Join(os.MkdirAll(root+"/run/openrc", 0o755),
		os.WriteFile(root+"/run/openrc/softlevel", []byte("default\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	answer, err := server.WaitBooted(t.Context(), &agentv1.WaitBootedRequest{})
	if err != nil || answer.State != "running" || !booted() {
		t.Errorf("got %v, %v, booted %v", answer, err, booted())
	}
}

// An agent that ends before the boot does is not held up by its watch.
func TestCloseWhileBooting(t *testing.T) {
	server := New(Config{
		Record: system.Record{Init: system.InitBusybox}, Root: t.TempDir(),
		Log: slog.New(slog.DiscardHandler),
	})
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if server.booted.isDone() {
		t.Error("it says that the machine has booted")
	}
}
