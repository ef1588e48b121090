package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

// execute sends requests and gives all that comes back.
func execute(
	t *testing.T, agent agentv1connect.AgentClient, requests ...*agentv1.ExecRequest,
) (stdout string, exit *agentv1.ExecExit, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := agent.Exec(ctx)
	if err != nil {
		return "", nil, err
	}
	defer stream.CloseResponse()
	for _, r := range requests {
		if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if err := stream.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := stream.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return stdout, exit, err
		}
		stdout += string(r.GetStdout())
		if r.GetExit() != nil {
			exit = r.GetExit()
		}
	}
}

func start(s *agentv1.ExecStart) *agentv1.ExecRequest {
	return &agentv1.ExecRequest{Request: &agentv1.ExecRequest_Start{Start: s}}
}

func stdin(text string) *agentv1.ExecRequest {
	return &agentv1.ExecRequest{Request: &agentv1.ExecRequest_Stdin{Stdin: []byte(text)}}
}

func closeStdin() *agentv1.ExecRequest {
	return &agentv1.ExecRequest{Request: &agentv1.ExecRequest_CloseStdin{CloseStdin: &agentv1.CloseStdin{}}}
}

// What can not be meant is refused before anything starts.
func TestExecRefuses(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.Mkdir(root+"/etc", 0o755),
		os.WriteFile(root+"/etc/passwd", []byte(strings.Repeat("x", 100_000)), 0o644)); err != nil {
		t.Fatal(err)
	}
	_, agent := serveAgent(t, "/")
	_, broken := serveAgent(t, root)
	large := strings.Repeat("x", agentv1.MaxArgBytes/2)
	tests := []struct {
		name  string
		agent agentv1connect.AgentClient
		first *agentv1.ExecRequest
		code  connect.Code
		want  string
	}{
		{"NoStart", agent, stdin("x"), connect.CodeInvalidArgument, "the first request is not start"},
		{"Nothing", agent, &agentv1.ExecRequest{}, connect.CodeInvalidArgument, "the first request is not start"},
		{
			"EmptyName", agent, start(&agentv1.ExecStart{Argv: []string{"", "x"}}), connect.CodeInvalidArgument,
			"empty command name",
		},
		{
			"ZeroByte", agent, start(&agentv1.ExecStart{Argv: []string{"echo", "a\x00b"}}), connect.CodeInvalidArgument,
			"holds a zero byte",
		},
		{
			"ZeroByteInFolder", agent, start(&agentv1.ExecStart{Cwd: "/\x00"}), connect.CodeInvalidArgument,
			"holds a zero byte",
		},
		{
			"NoVariable", agent, start(&agentv1.ExecStart{Argv: []string{"true"}, Env: []string{"A"}}),
			connect.CodeInvalidArgument, `"A": not KEY=VALUE`,
		},
		{
			"NoKey", agent, start(&agentv1.ExecStart{Argv: []string{"true"}, Env: []string{"=B"}}),
			connect.CodeInvalidArgument, `"=B": not KEY=VALUE`,
		},
		{
			"Large", agent, start(&agentv1.ExecStart{Argv: []string{"true", large}, Env: []string{"A=" + large}}),
			connect.CodeInvalidArgument, "at most 524288 are taken",
		},
		{
			"NoUser", agent, start(&agentv1.ExecStart{Argv: []string{"true"}, User: "nobody-here"}), connect.CodeNotFound,
			`user "nobody-here"`,
		},
		{
			"NoFolder", agent, start(&agentv1.ExecStart{Argv: []string{"true"}, Cwd: "/no/such"}), connect.CodeNotFound,
			`working folder "/no/such": no such file`,
		},
		{
			"NoFolderButAFile", agent, start(&agentv1.ExecStart{Argv: []string{"true"}, Cwd: "/dev/null"}),
			connect.CodeNotFound, "not a directory",
		},
		{
			"BrokenAccounts", broken, start(&agentv1.ExecStart{Argv: []string{"true"}, User: "dev"}), connect.CodeUnknown,
			"token too long",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, exit, err := execute(t, tt.agent, tt.first)
			checkCode(t, "exec", err, tt.code, tt.want)
			if exit != nil {
				t.Errorf("and an exit: %v", exit)
			}
		})
	}
	if _, _, err := execute(t, agent); err == nil {
		t.Error("a stream without a request is no error")
	}
}

// A command that can not run has a shell's exit code, and says why.
func TestExecNotStarted(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"data": "x", "broken": "\x7fELF", "script": "#!/no/such/interpreter\n"} {
		mode := os.FileMode(0o755)
		if name == "data" {
			mode = 0o644
		}
		if err := os.WriteFile(dir+"/"+name, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	_, agent := serveAgent(t, "/")
	tests := []struct {
		name, command string
		want          *agentv1.ExecExit
	}{
		{"NotFound", "no-such-command", &agentv1.ExecExit{Code: 127, Error: "no-such-command: command not found"}},
		{"NoFile", dir + "/none", &agentv1.ExecExit{Code: 127, Error: dir + "/none: no such file or directory"}},
		{"NoInterpreter", dir + "/script", &agentv1.ExecExit{Code: 127, Error: dir + "/script: no such file or directory"}},
		{"ThroughAFile", dir + "/data/x", &agentv1.ExecExit{Code: 127, Error: dir + "/data/x: no such file or directory"}},
		{"NotExecutable", dir + "/data", &agentv1.ExecExit{Code: 126, Error: dir + "/data: permission denied"}},
		{"Folder", dir, &agentv1.ExecExit{Code: 126, Error: dir + ": is a directory"}},
		{"NoProgram", dir + "/broken", &agentv1.ExecExit{Code: 126, Error: dir + "/broken: exec format error"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, exit, err := execute(t, agent, start(&agentv1.ExecStart{Argv: []string{tt.command}}))
			if err != nil {
				t.Fatal(err)
			}
			if got := exit.GetError(); got != tt.want.Error || exit.GetCode() != tt.want.Code {
				t.Errorf("got %v, want %v", exit, tt.want)
			}
		})
	}
}

// Input comes with the start, in messages of its own, or not at all, and ends when it is said to.
func TestExecInput(t *testing.T) {
	_, agent := serveAgent(t, "/")
	cat := func(more *agentv1.ExecStart) *agentv1.ExecRequest {
		more.Argv = []string{"sh", "-c", "cat; echo end"}
		return start(more)
	}
	tests := []struct {
		name     string
		requests []*agentv1.ExecRequest
		want     string
	}{
		{"None", []*agentv1.ExecRequest{cat(&agentv1.ExecStart{StdinClosed: true})}, "end\n"},
		{"WithStart", []*agentv1.ExecRequest{cat(&agentv1.ExecStart{Stdin: []byte("a\n"), StdinClosed: true})}, "a\nend\n"},
		{"Later", []*agentv1.ExecRequest{cat(&agentv1.ExecStart{}), stdin("a\n"), stdin("b\n"), closeStdin()}, "a\nb\nend\n"},
		{
			"Both",
			[]*agentv1.ExecRequest{cat(&agentv1.ExecStart{Stdin: []byte("a\n")}), stdin("b\n"), closeStdin()},
			"a\nb\nend\n",
		},
		{"AfterItsEnd", []*agentv1.ExecRequest{cat(&agentv1.ExecStart{}), closeStdin(), stdin("b\n"), closeStdin()}, "end\n"},
		{
			"Nonsense",
			[]*agentv1.ExecRequest{cat(&agentv1.ExecStart{}), {}, start(&agentv1.ExecStart{}), stdin("a\n"), closeStdin()},
			"a\nend\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, exit, err := execute(t, agent, tt.requests...)
			if err != nil || exit.GetCode() != 0 || got != tt.want {
				t.Errorf("got %q, %v, %v, want %q", got, exit, err, tt.want)
			}
		})
	}
}

// control is one call of Control that a running process gets.
func control(pid uint32, signal int32) *agentv1.ControlRequest {
	return &agentv1.ControlRequest{Pid: pid, Control: &agentv1.ControlRequest_Signal{Signal: signal}}
}

// begin starts a process that waits, and gives its number and its stream.
func begin(
	t *testing.T, agent agentv1connect.AgentClient, s *agentv1.ExecStart,
) (pid uint32, stream *connect.BidiStreamForClientSimple[agentv1.ExecRequest, agentv1.ExecResponse]) {
	t.Helper()
	stream, err := agent.Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.CloseRequest(); stream.CloseResponse() })
	if err := stream.Send(start(s)); err != nil {
		t.Fatal(err)
	}
	first, err := stream.Receive()
	if err != nil || first.GetStarted() == nil {
		t.Fatalf("got %v, %v, want started", first, err)
	}
	return first.GetStarted().Pid, stream
}

func TestControl(t *testing.T) {
	_, agent := serveAgent(t, "/")
	pid, stream := begin(t, agent, &agentv1.ExecStart{Argv: []string{"sleep", "1000"}})
	for _, tt := range []struct {
		name    string
		request *agentv1.ControlRequest
		code    connect.Code
		want    string
	}{
		{"ErrOther", control(uint32(os.Getpid()), 9), connect.CodeNotFound, "no process"},
		{"ErrNone", control(0, 9), connect.CodeNotFound, "no process 0 of exec"},
		{"ErrSignal0", control(pid, 0), connect.CodeInvalidArgument, "signal 0: not between 1 and 64"},
		{"ErrSignal65", control(pid, 65), connect.CodeInvalidArgument, "signal 65"},
		{"ErrNegative", control(pid, -9), connect.CodeInvalidArgument, "signal -9"},
	} {
		_, err := agent.Control(t.Context(), tt.request)
		checkCode(t, tt.name, err, tt.code, tt.want)
	}
	resize := &agentv1.ControlRequest{
		Pid:     pid,
		Control: &agentv1.ControlRequest_Resize{Resize: &agentv1.TerminalSize{Rows: 1, Cols: 1}},
	}
	for name, request := range map[string]*agentv1.ControlRequest{"Resize": resize, "Nothing": {Pid: pid}} {
		if _, err := agent.Control(t.Context(), request); err != nil {
			t.Errorf("%s of a process without a terminal: %v", name, err)
		}
	}
	if _, err := agent.Control(t.Context(), control(pid, 15)); err != nil {
		t.Fatal(err)
	}
	last, err := stream.Receive()
	if err != nil || last.GetExit().GetCode() != 143 || last.GetExit().GetSignal() != 15 {
		t.Errorf("got %v, %v, want exit 143 by signal 15", last, err)
	}
	if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the exit: %v, want EOF", err)
	}
	_, err = agent.Control(t.Context(), control(pid, 15))
	checkCode(t, "a process that has ended", err, connect.CodeNotFound, "no process")
}

// The terminal has the size that was asked for, bounded to what a kernel knows, and then another
// one.
func TestTerminalSize(t *testing.T) {
	_, agent := serveAgent(t, "/")
	pid, stream := begin(t, agent, &agentv1.ExecStart{
		Argv:     []string{"sh", "-c", "stty -echo; stty size; read line; stty size"},
		Terminal: &agentv1.Terminal{Size: &agentv1.TerminalSize{Rows: 24, Cols: 1 << 20}, Term: "dumb"},
	})
	line := func() string {
		var text string
		for !strings.HasSuffix(text, "\n") {
			r, err := stream.Receive()
			if err != nil {
				t.Fatalf("after %q: %v", text, err)
			}
			text += string(r.GetStdout())
		}
		return strings.TrimSpace(text)
	}
	if got := line(); got != "24 65535" {
		t.Errorf("the terminal has %q", got)
	}
	resize := &agentv1.ControlRequest{
		Pid:     pid,
		Control: &agentv1.ControlRequest_Resize{Resize: &agentv1.TerminalSize{Rows: 50, Cols: 132}},
	}
	if _, err := agent.Control(t.Context(), resize); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(stdin("go\n")); err != nil {
		t.Fatal(err)
	}
	if got := line(); got != "50 132" {
		t.Errorf("resized, the terminal has %q", got)
	}
}

// No environment or command of a caller gets past the checks with what execve would misread.
func FuzzCheckStart(f *testing.F) {
	f.Add("echo", "a b", "PATH=/bin", "/root")
	f.Add("", "\x00", "=", "")
	f.Fuzz(func(t *testing.T, name, arg, env, cwd string) {
		s := &agentv1.ExecStart{Argv: []string{name, arg}, Env: []string{env, "LAST=1"}, Cwd: cwd}
		if checkStart(s) != nil {
			return
		}
		if name == "" || strings.Contains(name+arg+env+cwd, "\x00") || strings.Index(env, "=") < 1 {
			t.Errorf("took %q", s)
		}
		key, value, _ := strings.Cut(env, "=")
		want := value
		if key == "LAST" {
			want = "1"
		}
		if got := lookupEnv(environment(userOfTests, s), key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	})
}

// A name given twice is once in the environment, with its last value.
func TestEnvironmentHasNamesOnce(t *testing.T) {
	got := environment(userOfTests, &agentv1.ExecStart{Env: []string{"A=1", "HOME=/x", "A=2", "TERM=dumb"}})
	want := []string{
		"HOME=/x", "USER=dev", "LOGNAME=dev", "SHELL=/bin/bash",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=2", "TERM=dumb",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
