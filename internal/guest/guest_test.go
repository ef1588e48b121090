package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"banger/internal/guest"
	"banger/internal/guestd/agent"
	"banger/internal/guestd/system"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startAgent(t testing.TB) *guest.Client {
	t.Helper()
	client, _ := startAgentAt(t)
	return client
}

// startAgentAt serves a real agent on a unix socket and gives a client of it. The root is a folder
// with accounts of its own; commands run on the host.
func startAgentAt(t testing.TB) (client *guest.Client, socket string) {
	t.Helper()
	root := t.TempDir()
	writeFile(t, filepath.Join(root, "etc/passwd"), fmt.Sprintf(
		"root:x:0:0:root:%[1]s:/bin/sh\nme:x:%[2]d:%[3]d::%[1]s:/bin/sh\n", root, os.Getuid(), os.Getgid()))
	writeFile(t, filepath.Join(root, "etc/os-release"), "ID=test\nPRETTY_NAME=\"Test OS 1\"\n")
	record := system.Record{Init: system.InitNone, Stages: []system.Stage{{Name: "find disks", Start: time.Second, Duration: time.Millisecond}}}
	server := agent.New(agent.Config{Build: "test", Record: record, Root: root, Log: slog.New(slog.DiscardHandler)})
	socket = filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client = guest.New(func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", socket) })
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-served
	})
	return client, socket
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// result is all that a command did.
type result struct {
	Stdout, Stderr string
	Exit           guest.Exit
}

func collect(t testing.TB, e *guest.Exec) result {
	t.Helper()
	defer e.Close()
	var r result
	for {
		event, err := e.Recv()
		if errors.Is(err, io.EOF) {
			return r
		}
		if err != nil {
			t.Fatalf("Recv: %v", err)
		}
		r.Stdout += string(event.Stdout)
		r.Stderr += string(event.Stderr)
		if event.Exit != nil {
			r.Exit = *event.Exit
		}
	}
}

func exec(t testing.TB, c *guest.Client, spec guest.ExecSpec) result {
	t.Helper()
	e, err := c.Exec(t.Context(), spec)
	if err != nil {
		t.Fatalf("Exec(%q): %v", spec.Argv, err)
	}
	return collect(t, e)
}

func sh(script string) guest.ExecSpec {
	return guest.ExecSpec{Argv: []string{"sh", "-c", script}, NoStdin: true}
}

func TestHealth(t *testing.T) {
	got, err := startAgent(t).WaitReady(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hostname, _ := os.Hostname()
	want := guest.Health{
		Protocol: 1, Build: "test", Init: "none", Booted: true, Hostname: hostname, Kernel: got.Kernel, Distribution: "Test OS 1",
		Uptime: got.Uptime, Stages: []guest.BootStage{{Name: "find disks", Start: time.Second, Duration: time.Millisecond}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Health (-want +got):\n%s", diff)
	}
	if got.Kernel == "" || got.Uptime <= 0 {
		t.Errorf("kernel %q, uptime %v: want both", got.Kernel, got.Uptime)
	}
}

func TestExec(t *testing.T) {
	c := startAgent(t)
	withStdin := sh("cat; echo end >&2")
	withStdin.Stdin = []byte("first input")
	env := sh("echo $HOME-$USER-$LOGNAME-$SHELL-$A; pwd")
	env.Env, env.Dir = []string{"A=b", "HOME=/h", "A=c"}, "/usr"
	noExec := filepath.Join(t.TempDir(), "script")
	writeFile(t, noExec, "not a program")
	tests := []struct {
		name string
		spec guest.ExecSpec
		want result
	}{
		{"True", guest.ExecSpec{Argv: []string{"true"}, NoStdin: true}, result{}},
		{"Code", sh("exit 42"), result{Exit: guest.Exit{Code: 42}}},
		{"StreamsApart", sh("echo out; echo err >&2"), result{Stdout: "out\n", Stderr: "err\n"}},
		{"FirstInput", withStdin, result{Stdout: "first input", Stderr: "end\n"}},
		{"NoInput", sh("cat"), result{}},
		{"Environment", env, result{Stdout: "/h-root-root-/bin/sh-c\n/usr\n"}},
		{"Signal", sh("kill -TERM $$"), result{Exit: guest.Exit{Code: 143, Signal: syscall.SIGTERM}}},
		{"DaemonKeepsPipe", sh("sleep 60 & echo $! >/dev/null; echo out"), result{Stdout: "out\n"}},
		{
			"ErrNotFound",
			guest.ExecSpec{Argv: []string{"no-such-command"}},
			result{Exit: guest.Exit{Code: 127, Error: "no-such-command: command not found"}},
		},
		{
			"ErrNoFile",
			guest.ExecSpec{Argv: []string{"/no/such/file"}},
			result{Exit: guest.Exit{Code: 127, Error: "/no/such/file: no such file or directory"}},
		},
		{
			"ErrNotExecutable",
			guest.ExecSpec{Argv: []string{noExec}},
			result{Exit: guest.Exit{Code: 126, Error: noExec + ": permission denied"}},
		},
		{
			"ErrDirectory",
			guest.ExecSpec{Argv: []string{"/usr"}},
			result{Exit: guest.Exit{Code: 126, Error: "/usr: is a directory"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, exec(t, c, tt.spec)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestExecErr(t *testing.T) {
	c := startAgent(t)
	tests := []struct {
		name string
		spec guest.ExecSpec
		kind error
		want string
	}{
		{"User", guest.ExecSpec{Argv: []string{"true"}, User: "nobody-here"}, guest.ErrNotFound, `exec: user "nobody-here": not in the guest`},
		{"Dir", guest.ExecSpec{Argv: []string{"true"}, Dir: "/no/dir"}, guest.ErrNotFound, `exec: working folder "/no/dir": no such file or directory`},
		{"Env", guest.ExecSpec{Argv: []string{"true"}, Env: []string{"A"}}, guest.ErrInvalid, `exec: environment "A": not KEY=VALUE`},
		{"Zero", guest.ExecSpec{Argv: []string{"a\x00b"}}, guest.ErrInvalid, `exec: "a\x00b": holds a zero byte`},
		{
			"Long",
			guest.ExecSpec{Argv: []string{strings.Repeat("a", 600<<10)}},
			guest.ErrInvalid,
			"exec: arguments and environment of 614401 bytes: at most 524288 are taken",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Exec(t.Context(), tt.spec)
			if err == nil || err.Error() != tt.want || !errors.Is(err, tt.kind) {
				t.Errorf("got %v (%T), want %q", err, err, tt.want)
			}
		})
	}
}

func TestExecInput(t *testing.T) {
	e, err := startAgent(t).Exec(t.Context(), guest.ExecSpec{Argv: []string{"cat"}})
	if err != nil {
		t.Fatal(err)
	}
	input := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB, more than any window
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(e.SendStdin([]byte(input)), e.CloseStdin()) }()
	got := collect(t, e)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if got.Stdout != input || got.Exit.Code != 0 {
		t.Errorf("got %d bytes and %+v, want %d bytes", len(got.Stdout), got.Exit, len(input))
	}
}

func TestExecTerminal(t *testing.T) {
	e, err := startAgent(t).Exec(t.Context(), guest.ExecSpec{
		Argv:     []string{"sh", "-c", "stty size; echo $TERM; test -t 2 && echo tty; read a; stty size; echo got $a"},
		Terminal: &guest.Terminal{Rows: 24, Cols: 80, Term: "vt100"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Resize(t.Context(), 50, 132); err != nil {
		t.Fatal(err)
	}
	if err := e.SendStdin([]byte("word\n")); err != nil {
		t.Fatal(err)
	}
	got := collect(t, e)
	for _, want := range []string{"vt100\r\n", "tty\r\n", "50 132\r\n", "got word\r\n"} {
		if !strings.Contains(got.Stdout, want) {
			t.Errorf("output %q lacks %q", got.Stdout, want)
		}
	}
}

func TestExecLoginShell(t *testing.T) {
	e, err := startAgent(t).Exec(t.Context(), guest.ExecSpec{Stdin: []byte("echo $0; exit 3\n"), NoStdin: true})
	if err != nil {
		t.Fatal(err)
	}
	want := result{Stdout: "-sh\n", Exit: guest.Exit{Code: 3}}
	if diff := cmp.Diff(want, collect(t, e)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A signal must reach a command that does not read its input, and all of its group.
func TestExecSignal(t *testing.T) {
	e, err := startAgent(t).Exec(t.Context(), guest.ExecSpec{Argv: []string{"sh", "-c", "sleep 100 & echo ready; wait"}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if event, err := e.Recv(); err != nil || string(event.Stdout) != "ready\n" {
		t.Fatalf("got %+v, %v", event, err)
	}
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		e.SendStdin(make([]byte, 4<<20))
	}()
	if err := e.Signal(t.Context(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := e.Signal(t.Context(), syscall.SIGTERM); err != nil && !errors.Is(err, guest.ErrNotFound) {
		t.Fatal(err)
	}
	if got := collect(t, e).Exit; got.Signal == 0 {
		t.Errorf("exit %+v, want a signal", got)
	}
	<-stuck
	if err := e.Signal(t.Context(), syscall.SIGTERM); !errors.Is(err, guest.ErrNotFound) {
		t.Errorf("signal after the end: %v, want ErrNotFound", err)
	}
}

// A cancelled stream kills the group: the group's last member closes the fifo.
func TestExecCancelKillsGroup(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c := startAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	e, err := c.Exec(ctx, sh("exec 3>"+fifo+"; sleep 1000 & sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	r, err := os.Open(fifo) // waits for the writer
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	if _, err := e.Recv(); !errors.Is(err, context.Canceled) {
		t.Errorf("Recv: %v, want cancelled", err)
	}
	if _, err := io.ReadAll(r); err != nil { // ends with the last process of the group
		t.Fatal(err)
	}
}

func TestExecMany(t *testing.T) {
	c := startAgent(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			e, err := c.Exec(t.Context(), guest.ExecSpec{Argv: []string{"cat"}})
			if err != nil {
				t.Errorf("Exec: %v", err)
				return
			}
			defer e.Close()
			word := fmt.Sprintf("number %d", i)
			if err := errors.Join(e.SendStdin([]byte(word)), e.CloseStdin()); err != nil {
				t.Errorf("send: %v", err)
			}
			if got := collect(t, e); got.Stdout != word || got.Exit.Code != 0 {
				t.Errorf("got %+v, want %q", got, word)
			}
		})
	}
	wg.Wait()
}

// Processes that do not read their input must leave the connection to others.
func TestExecStalledInputs(t *testing.T) {
	c := startAgent(t)
	var senders sync.WaitGroup
	var stalled []*guest.Exec
	for range 50 {
		e, err := c.Exec(t.Context(), guest.ExecSpec{Argv: []string{"sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, e)
		senders.Go(func() { e.SendStdin(make([]byte, 1<<20)) })
	}
	e, err := c.Exec(t.Context(), guest.ExecSpec{Argv: []string{"cat"}})
	if err != nil {
		t.Fatal(err)
	}
	input := strings.Repeat("x", 256<<10)
	senders.Go(func() { e.SendStdin([]byte(input)); e.CloseStdin() })
	if got := collect(t, e); got.Stdout != input {
		t.Errorf("got %d bytes, want %d", len(got.Stdout), len(input))
	}
	for _, e := range stalled {
		e.Close()
	}
	senders.Wait()
}

// Output of any size passes without being kept, and a caller that does not take it holds the
// command back.
func TestExecBoundedMemory(t *testing.T) {
	const size, bound = 64 << 20, 16 << 20
	e, err := startAgent(t).Exec(t.Context(), sh(fmt.Sprintf("head -c %d /dev/zero", size)))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var before, now runtime.MemStats
	runtime.GC() // what counts is what is kept
	runtime.ReadMemStats(&before)
	total, looked := 0, 0
	for {
		event, err := e.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if event.Exit != nil {
			break
		}
		total += len(event.Stdout)
		if total-looked > 8<<20 {
			looked = total
			runtime.GC()
			runtime.ReadMemStats(&now)
			if now.HeapAlloc > before.HeapAlloc+bound {
				t.Fatalf("heap grew from %d to %d bytes after %d", before.HeapAlloc, now.HeapAlloc, total)
			}
		}
	}
	if total != size {
		t.Errorf("got %d bytes, want %d", total, size)
	}
}

func TestFiles(t *testing.T) {
	c := startAgent(t)
	from, to := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(from, "tree/a/file"), strings.Repeat("content", 100_000))
	var stream bytes.Buffer
	if err := c.ReadTar(t.Context(), filepath.Join(from, "tree"), &stream); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteTar(t.Context(), filepath.Join(to, "copy"), &stream); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(to, "copy/a/file"))
	if err != nil || string(got) != strings.Repeat("content", 100_000) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if err := c.ReadTar(t.Context(), filepath.Join(from, "none"), io.Discard); !errors.Is(err, guest.ErrNotFound) {
		t.Errorf("ReadTar of nothing: %v, want ErrNotFound", err)
	}
	// The refusal must come through although the sender is in the middle of its stream.
	err = c.WriteTar(t.Context(), to, io.LimitReader(zeros{}, 64<<20))
	if err == nil || errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("WriteTar of no tar: %v, want the agent's own words", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'z'
	}
	return len(p), nil
}

func TestCalls(t *testing.T) {
	c := startAgent(t)
	stats, err := c.Stats(t.Context())
	if err != nil || stats.CPUs == 0 || stats.CPUTotal < stats.CPUBusy || stats.MemoryTotalBytes < stats.MemoryAvailableBytes || stats.Processes == 0 {
		t.Errorf("Stats: %+v, %v", stats, err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ports, err := c.Ports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range ports {
		found = found || p.Network == "tcp" && p.Address.String() == l.Addr().String() && p.PID == os.Getpid()
	}
	if !found {
		t.Errorf("Ports lack %v of this process", l.Addr())
	}
	if err := c.AddEntropy(t.Context(), make([]byte, 5000)); !errors.Is(err, guest.ErrInvalid) {
		t.Errorf("AddEntropy beyond its bound: %v, want ErrInvalid", err)
	}
	if err := c.SetTime(t.Context(), time.Time{}); !errors.Is(err, guest.ErrInvalid) {
		t.Errorf("SetTime to nothing: %v, want ErrInvalid", err)
	}
	if state, err := c.WaitBooted(t.Context()); err != nil || state != "running" {
		t.Errorf("WaitBooted: %q, %v", state, err)
	}
}

func BenchmarkExecTrue(b *testing.B) {
	c := startAgent(b)
	for b.Loop() {
		exec(b, c, guest.ExecSpec{Argv: []string{"/bin/true"}, NoStdin: true})
	}
}
