package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/guest"
	guestagent "banger/internal/guestd/agent"
	"banger/internal/guestd/system"
	"banger/internal/progress"
)

// startAgent serves a real agent, whose commands run on this host.
func startAgent(t *testing.T) *guest.Client {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/passwd"), fmt.Sprintf("root:x:%d:%d:root:%s:/bin/sh\n", os.Getuid(), os.Getgid(), root))
	server := guestagent.New(guestagent.Config{Build: "test", Record: system.Record{Init: system.InitNone}, Root: root, Log: slog.New(slog.DiscardHandler)})
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client := guest.New(func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", socket) })
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-served
	})
	return client
}

func shell(name, script string, sources ...string) step {
	return step{name: name, argv: []string{"sh", "-c", script}, sources: sources}
}

func TestRun(t *testing.T) {
	c := startAgent(t)
	var log bytes.Buffer
	var stages []string
	ctx := progress.With(t.Context(), func(p api.Progress) {
		if p.State != api.ProgressRunning {
			stages = append(stages, p.Stage+" "+string(p.State))
		}
	})
	last := shell("last", "echo over")
	last.booted = true
	p := Plan{steps: []step{shell("first", "echo out; echo Setting up x >&2"), last}}
	if err := p.Run(ctx, c, &log); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); got != "== first\nout\nSetting up x\n== last\nover\n" && got != "== first\nSetting up x\nout\n== last\nover\n" {
		t.Errorf("log %q", got)
	}
	if got := strings.Join(stages, ", "); got != "step first done, wait for boot done, step last done" {
		t.Errorf("stages %s", got)
	}
}

func TestRunErr(t *testing.T) {
	many := "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done; printf 'the \\033[31mlast\\033[0m one'; exit 7"
	tests := []struct {
		name            string
		step            step
		message, remedy string
		notInMessage    string
	}{
		{"LastLines", shell("script x", many), "step script x: exit status 7:\n  line 19\n", "", "line 18"},
		{"NoControl", shell("script x", many), "  the [31mlast[0m one", "", "\x1b"},
		{"Sources", shell("tmux", "exit 128", "sources.tmux_tpm", "sources.x"), "step tmux: exit status 128", "is set by sources.tmux_tpm, sources.x", ""},
		{"NotFound", step{name: "x", argv: []string{"/no/such/script"}}, "step x: exit status 127:\n/no/such/script: no such file", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			err := Plan{steps: []step{tt.step, shell("never", "true")}}.Run(t.Context(), startAgent(t), &log)
			e, ok := errors.AsType[*api.Error](err)
			if !ok || !strings.Contains(e.Message, tt.message) || tt.remedy != "" && (len(e.Remedies) != 1 || !strings.Contains(e.Remedies[0].Text, tt.remedy)) {
				t.Fatalf("error %#v", err)
			}
			if tt.notInMessage != "" && strings.Contains(e.Message, tt.notInMessage) {
				t.Errorf("message %q", e.Message)
			}
			if strings.Contains(log.String(), "never") {
				t.Error("the next step ran all the same")
			}
		})
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the user left")
	log := writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "begun") {
			cancel(left)
		}
		return len(p), nil
	})
	if err := (Plan{steps: []step{shell("long", "echo begun; exec sleep 1000")}}).Run(ctx, startAgent(t), log); !errors.Is(err, left) {
		t.Errorf("error %v, want %v", err, left)
	}
}

// A log that cannot be written ends the build: who would know what went wrong?
func TestRunLogFull(t *testing.T) {
	full := errors.New("disk full")
	log := writerFunc(func([]byte) (int, error) { return 0, full })
	if err := (Plan{steps: []step{shell("x", "echo y")}}).Run(t.Context(), startAgent(t), log); !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func FuzzTail(f *testing.F) {
	f.Add([]byte("a\nb"), []byte("c\n"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var last tail
		last.Write(a)
		last.Write(b)
		text := last.String()
		if len(text) > tailLines*(3+3*tailLineBytes)+3 || strings.ContainsAny(text, "\x1b\r\x00") {
			t.Errorf("%q", text)
		}
	})
}
