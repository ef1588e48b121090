package fcqemu

import (
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// exitsCleanly waits for the end which a guest makes by itself. log is the log's file, standard
// output if empty.
func (p *program) exitsCleanly(t *testing.T, log string) {
	t.Helper()
	if code := p.exit(t); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	got := p.stdout.String()
	if log != "" {
		content, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		got = string(content)
	}
	_, end, _ := strings.Cut(got, "Vmm is stopping.\n")
	if !strings.HasSuffix(end, "Firecracker exiting successfully. exit_code=0\n") {
		t.Errorf("the log ends with %q", end)
	}
	p.gone(t)
}

// Whichever way a guest ends by itself, the program ends with success: with its console in a file,
// through a limiter, and on standard output.
func TestGuestEnds(t *testing.T) {
	t.Run("poweroff, console in a file", func(t *testing.T) {
		p := serve(t, nil)
		p.guestConfig(t)
		p.must(t, "PUT", "/serial", `{"serial_out_path":"console"}`)
		p.start(t)
		p.command(t, "poweroff")
		p.exitsCleanly(t, "")
		console, err := os.ReadFile(p.path("console"))
		if err != nil || !strings.Contains(string(console), "guest: ready") || !strings.Contains(string(console), "reboot: Power down") {
			t.Errorf("the console's file: %v, %s", err, console)
		}
		if strings.Contains(p.stdout.String(), "guest: ready") {
			t.Error("the console is on standard output too")
		}
	})
	t.Run("reset, console limited", func(t *testing.T) {
		p := serve(t, nil)
		p.guestConfig(t)
		p.must(t, "PUT", "/metrics", `{"metrics_path":"metrics"}`)
		p.must(t, "PUT", "/serial", `{"serial_out_path":"console","rate_limiter":{"size":1000,"refill_time":3600000}}`)
		p.start(t)
		p.ask(t, "exec")
		p.must(t, "PUT", "/actions", `{"action_type":"FlushMetrics"}`)
		passed, err := os.ReadFile(p.path("console"))
		if err != nil {
			t.Fatal(err)
		}
		// A byte a second is the least rate there is.
		if n := len(passed); n < 1000 || n > 1200 {
			t.Errorf("%d bytes passed a limit of 1000", n)
		}
		dropped := 0.0
		for _, line := range p.metricsLines(t, "metrics") {
			dropped += line["uart"]["rate_limiter_dropped_bytes"].(float64)
		}
		if dropped < 1000 {
			t.Errorf("metrics count %v dropped bytes", dropped)
		}
		p.command(t, "reboot")
		p.exitsCleanly(t, "")
	})
	t.Run("panic, without an API", func(t *testing.T) {
		p := newProgram(t)
		config := configFile(t, p, nil)
		p.launch(t, nil, "--no-api", "--config-file", config)
		p.command(t, "panic")
		p.exitsCleanly(t, "")
		if !strings.Contains(p.stdout.String(), "Kernel panic - not syncing") {
			t.Error("the console on standard output has no panic")
		}
		if _, err := os.Stat(p.path("api")); err == nil {
			t.Error("there is an API's socket")
		}
	})
}

// Metrics that cannot be written do not keep a VM from starting, nor one that has started from
// being seen.
func TestMetricsFull(t *testing.T) {
	p := serve(t, nil)
	p.guestConfig(t)
	p.must(t, "PUT", "/metrics", `{"metrics_path":"/dev/full"}`)
	p.start(t)
	if got := p.refused(t, "PUT", "/actions", `{"action_type":"FlushMetrics"}`); !strings.Contains(got, "no space left on device") {
		t.Error(got)
	}
	if got := p.must(t, "GET", "/", ""); !strings.Contains(got, `"state":"Running"`) {
		t.Error(got)
	}
	if !strings.Contains(p.stdout.String(), "Failed to log metrics: ") {
		t.Error("the log does not tell of the metrics")
	}
}

func TestQEMUKilled(t *testing.T) {
	p := serve(t, nil)
	p.guestConfig(t)
	p.start(t)
	syscall.Kill(p.qemuPID(t), syscall.SIGKILL)
	if code := p.exit(t); code != exitGeneric {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, want := range []string{"Vmm is stopping.\n", "qemu ended: signal: killed", "Firecracker exiting with error. exit_code=1\n"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
}

// Signals end the program as they end Firecracker, and QEMU with it.
func TestSignals(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			p := serve(t, nil)
			p.guestConfig(t)
			p.start(t)
			p.qemuPID(t)
			p.cmd.Process.Signal(signal)
			p.exit(t)
			status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !status.Signaled() || status.Signal() != signal {
				t.Errorf("ended with %v, want by %v", p.cmd.ProcessState, signal)
			}
			p.gone(t)
		})
	}
}

// A VM with a vsock in use leaves no goroutine, neither when it ends by itself nor when its context
// does.
func TestNoGoroutineLeft(t *testing.T) {
	for _, ending := range []string{"poweroff", "context"} {
		t.Run(ending, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			ctx, cancel := context.WithCancel(t.Context())
			p := newProgram(t)
			args := []string{"--api-sock", p.path("api"), "--config-file", configFile(t, p, nil)}
			code := -1
			go func() {
				defer close(p.exited)
				code = Run(ctx, Process{Args: args, Getenv: func(name string) string {
					if name == "FIRECRACKER_QEMU_ACCEL" {
						return "tcg"
					}
					return ""
				}, Stdout: &p.stdout, Stderr: &p.stderr})
			}()
			defer func() {
				cancel()
				<-p.exited
				p.client.CloseIdleConnections()
			}()
			idle := p.command(t, "echo")
			defer idle.Close()
			want := exitOK
			if ending == "poweroff" {
				p.command(t, "poweroff")
			} else {
				want = exitGeneric
				cancel()
			}
			select {
			case <-p.exited:
			case <-testContext(t).Done():
				t.Fatal("Run does not end")
			}
			if code != want {
				t.Errorf("exit code %d, want %d", code, want)
			}
			idle.SetReadDeadline(time.Now().Add(time.Minute))
			if rest, err := io.ReadAll(idle); len(rest) > 0 {
				t.Errorf("the open connection got %q, %v", rest, err)
			}
		})
	}
}
