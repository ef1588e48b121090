package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/home"
)

// converses answers a request for a session, and lets the test have its frames.
func converses(t *testing.T, with func(t *testing.T, frames *api.FrameConn, body []byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(
			conn,
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.ExecUpgrade+"\r\n\r\n",
		)
		with(t, api.NewFrameConn(conn, buffered.Reader), body)
	}
}

// takes reads one frame of that type, and its payload.
func takes(t *testing.T, frames *api.FrameConn, kind api.FrameType) string {
	t.Helper()
	frame, err := frames.Read()
	if err != nil || frame.Type != kind {
		t.Errorf("frame %d %q, %v; want %d", frame.Type, frame.Payload, err, kind)
	}
	return string(frame.Payload)
}

// bangerWith is banger with an input.
func bangerWith(t *testing.T, dir string, stdin *os.File, args ...string) result {
	t.Helper()
	var stdout, stderr buffer
	getenv := func(key string) string { return map[string]string{"HOME": dir, "BANGER_HOME": dir}[key] }
	code := Run(t.Context(), Process{Args: args, Stdin: stdin, Stdout: &stdout, Stderr: &stderr, Getenv: getenv})
	return result{code, stdout.String(), stderr.String()}
}

// Input goes out in frames, no more than may be under way, and its end is told.
func TestSessionInput(t *testing.T) {
	dir := fakeDaemon(
		t,
		map[string]http.HandlerFunc{
			"POST /v1/machines/web/exec": converses(t, func(t *testing.T, frames *api.FrameConn, body []byte) {
				var in api.Exec
				if err := json.Unmarshal(body, &in); err != nil || !in.Stdin || in.TTY != nil {
					t.Errorf("exec %s, %v", body, err)
				}
				got := 0
				for range api.StdinWindow { // all that may come without an answer
					got += len(takes(t, frames, api.FrameStdin))
				}
				for done := false; !done; {
					frames.Write(api.FrameStdinAck, nil)
					frame, err := frames.Read()
					if err != nil {
						t.Error(err)
						return
					}
					got, done = got+len(frame.Payload), frame.Type == api.FrameStdinClose
				}
				frames.Write(api.FrameStdout, fmt.Append(nil, got))
				frames.WriteJSON(api.FrameExit, api.ExecExit{})
			}),
		},
	)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const size = 3 << 20
	go func() {
		defer w.Close()
		io.WriteString(w, strings.Repeat("x", size))
	}()
	if diff := cmp.Diff(result{0, fmt.Sprint(size), ""}, bangerWith(t, dir, r, "exec", "-i", "web", "--", "wc", "-c"), cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Without -i a command gets no input, and this process's own is left alone.
func TestSessionWithoutInput(t *testing.T) {
	dir := fakeDaemon(
		t,
		map[string]http.HandlerFunc{
			"POST /v1/machines/web/exec": converses(t, func(t *testing.T, frames *api.FrameConn, body []byte) {
				if strings.Contains(string(body), "stdin") {
					t.Errorf("exec %s", body)
				}
				frames.WriteJSON(api.FrameExit, api.ExecExit{Code: 4})
				if frame, err := frames.Read(); err == nil {
					t.Errorf("frame %d came", frame.Type)
				}
			}),
		},
	)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	io.WriteString(w, "mine")
	w.Close()
	if got := bangerWith(t, dir, r, "exec", "web", "--", "true"); got.code != 4 {
		t.Errorf("%+v", got)
	}
	if left, err := io.ReadAll(r); string(left) != "mine" || err != nil {
		t.Errorf("the input that was left: %q, %v", left, err)
	}
}

// Output that nobody reads any more ends the command.
func TestSessionOutputClosed(t *testing.T) {
	left := make(chan error, 1)
	dir := fakeDaemon(
		t,
		map[string]http.HandlerFunc{
			"POST /v1/machines/web/exec": converses(t, func(_ *testing.T, frames *api.FrameConn, _ []byte) {
				frames.Write(api.FrameStdout, []byte("more"))
				_, err := frames.Read()
				left <- err
			}),
		},
	)
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	var stderr buffer
	code := Run(t.Context(), Process{
		Args: []string{"exec", "web", "--", "yes"}, Stdin: stdin, Stdout: brokenWriter{}, Stderr: &stderr,
		Getenv: func(key string) string { return map[string]string{"HOME": dir, "BANGER_HOME": dir}[key] },
	})
	if code != exitFailure || !strings.Contains(stderr.String(), "write output: nobody reads") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
	if err := <-left; err == nil {
		t.Error("the command was not ended")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }

// process is a banger of its own, on a terminal of its own, that asks a fake daemon.
func process(t *testing.T, dir string, args ...string) (*os.File, *exec.Cmd) {
	t.Helper()
	one, _ := twoBuilds(t) // the first has this binary's build id
	one.home = home.Dir(dir)
	command := one.command(t.Context(), args...)
	command.Env = append(command.Env, "TERM=xterm-test")
	terminal, err := pty.StartWithSize(command, &pty.Winsize{Rows: 33, Cols: 111})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return terminal, command
}

// On a terminal a command gets one of the same size and kind; keys go to it as they are, and a new
// size is told.
func TestSessionOnTerminal(t *testing.T) {
	resized := make(chan api.TTY, 1)
	ready := make(chan struct{})
	dir := fakeDaemon(
		t,
		map[string]http.HandlerFunc{
			"POST /v1/machines/web/exec": converses(t, func(t *testing.T, frames *api.FrameConn, body []byte) {
				var in api.Exec
				if err := json.Unmarshal(body, &in); err != nil || in.TTY == nil ||
					*in.TTY != (api.TTY{Rows: 33, Cols: 111, Term: "xterm-test"}) {
					t.Errorf("exec %s, %v", body, err)
				}
				takes(t, frames, api.FrameResize) // it may have changed since
				close(ready)
				var size api.TTY
				if err := json.Unmarshal([]byte(takes(t, frames, api.FrameResize)), &size); err != nil {
					t.Error(err)
				}
				resized <- size
				if keys := takes(t, frames, api.FrameStdin); keys != "\x03" { // no signal: the terminal is raw
					t.Errorf("keys %q", keys)
				}
				frames.Write(api.FrameStdout, []byte("bye\r\n"))
				frames.WriteJSON(api.FrameExit, api.ExecExit{Code: 5})
			}),
		},
	)
	terminal, command := process(t, dir, "shell", "web")
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("the session does not begin")
	}
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 10, Cols: 20}); err != nil {
		t.Fatal(err)
	}
	select {
	case size := <-resized:
		if size.Rows != 10 || size.Cols != 20 {
			t.Errorf("the new size is %+v", size)
		}
	case <-time.After(patience):
		t.Fatal("no new size was told")
	}
	if _, err := terminal.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(terminal) // ends with an error when the other end is closed
	if !strings.Contains(string(text), "bye") {
		t.Errorf("the terminal shows %q", text)
	}
	if err := command.Wait(); command.ProcessState.ExitCode() != 5 {
		t.Errorf("exit: %v", err)
	}
}

// Signals go to the command while one runs; before, they end what is under way, as the exit code
// tells.
func TestSignals(t *testing.T) {
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		start  bool // send it before the command runs
		want   int
	}{
		{"Forwarded", syscall.SIGTERM, false, 6},
		{"ForwardedInterrupt", syscall.SIGINT, false, 6},
		{"BeforeTheStart", syscall.SIGINT, true, 130},
		{"BeforeTheStartTerm", syscall.SIGTERM, true, 143},
	} {
		t.Run(test.name, func(t *testing.T) {
			began, left := make(chan struct{}), make(chan struct{})
			dir := fakeDaemon(
				t,
				map[string]http.HandlerFunc{"POST /v1/machines/run": converses(t, func(t *testing.T, frames *api.FrameConn, _ []byte) {
					defer close(left)
					if test.start {
						close(began)
						if frame, err := frames.Read(); err == nil && frame.Type != api.FrameStdin && frame.Type != api.FrameStdinClose {
							t.Errorf("frame %d came", frame.Type)
						}
						return
					}
					frames.WriteJSON(api.FrameStarted, api.RunStarted{Machine: api.Machine{ID: "x", Name: "web"}, Argv: []string{"x"}})
					takes(t, frames, api.FrameStdinClose) // only then signals are forwarded
					close(began)
					if got := takes(t, frames, api.FrameSignal); got != fmt.Sprintf(`{"signal":%d}`, int(test.signal)) {
						t.Errorf("signal frame %s", got)
					}
					frames.WriteJSON(api.FrameExit, api.ExecExit{Code: 6})
				})},
			)
			one, _ := twoBuilds(t)
			one.home = home.Dir(dir)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			command := one.command(ctx, "run", "--name", "web", "--", "x")
			var stderr buffer
			command.Stderr = &stderr
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-began:
			case <-ctx.Done():
				t.Fatalf("the run does not begin: %s", stderr.String())
			}
			if err := command.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			if err := command.Wait(); command.ProcessState.ExitCode() != test.want {
				t.Errorf("exit: %v, want %d; it says %s", err, test.want, stderr.String())
			}
			<-left
		})
	}
}

// ssh's connection is carried whole, its end in either direction included.
func TestSSHProxy(t *testing.T) {
	dir := fakeDaemon(t, map[string]http.HandlerFunc{
		"POST /v1/machines/web/ssh": says(api.SSH{Command: []string{"sshd", "-i"}}),
		"POST /v1/machines/web/exec": converses(t, func(t *testing.T, frames *api.FrameConn, body []byte) {
			var in api.Exec
			if err := json.Unmarshal(body, &in); err != nil || !cmp.Equal(in.Argv, []string{"sshd", "-i"}) || !in.Stdin ||
				in.TTY != nil ||
				in.Dir != "/" {
				t.Errorf("exec %s, %v", body, err)
			}
			frames.Write(api.FrameStdout, []byte("SSH-2.0-"+takes(t, frames, api.FrameStdin)))
			frames.Write(api.FrameStdinAck, nil)
			takes(t, frames, api.FrameStdinClose)
			frames.WriteJSON(api.FrameExit, api.ExecExit{Code: 255})
		}),
	})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	io.WriteString(w, "client")
	w.Close()
	if diff := cmp.Diff(result{255, "SSH-2.0-client", ""}, bangerWith(t, dir, r, "ssh-proxy", "web.vm"), cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// On a terminal stages are live lines, and nothing of them is left in what a command prints.
func TestProgressOnTerminal(t *testing.T) {
	dir := fakeDaemon(t, map[string]http.HandlerFunc{"POST /v1/machines": func(w http.ResponseWriter, r *http.Request) {
		for _, p := range []api.Progress{
			{Stage: "download kernel", State: api.ProgressRunning},
			{Stage: "download kernel", State: api.ProgressRunning, DoneBytes: 1 << 20, TotalBytes: 2 << 20, Detail: "vmlinux"},
			{Stage: "make disk", State: api.ProgressRunning},
			{Stage: "make disk", State: api.ProgressFailed, ElapsedMS: 1500},
			{Stage: "download kernel", State: api.ProgressDone, DoneBytes: 2 << 20, TotalBytes: 2 << 20, ElapsedMS: 61_000},
		} {
			says(api.Event[api.Machine]{Progress: &p})(w, r)
		}
		says(api.Event[api.Machine]{Result: &api.Machine{Name: "web"}})(w, r)
	}})
	terminal, command := process(t, dir, "create")
	text, _ := io.ReadAll(terminal) // as above
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"✓ download kernel", "✗ make disk 1.5 s", "web\r\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the terminal lacks %q:\n%q", want, text)
		}
	}
	if last := strings.TrimSpace(string(text)); !strings.HasSuffix(last, "web") {
		t.Errorf("the last line is not the name: %q", last)
	}
}
