package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"banger/api"
	"banger/internal/control"
	"banger/internal/control/controltest"
	"banger/internal/vmtest"
)

// serveMachines serves a Control whose machines are vmtest's.
func serveMachines(t *testing.T, how string) (*served, *control.Control) {
	t.Helper()
	c := controltest.New(t, how, api.ImageDefaults{})
	return serve(t, c, nil), c
}

// machine makes a machine that runs.
func (s *served) machine(t *testing.T) {
	t.Helper()
	if _, err := s.client.CreateMachine(t.Context(), api.CreateMachine{Name: "web"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.StartMachine(t.Context(), api.StartMachine{Machine: "web"}, nil); err != nil {
		t.Fatal(err)
	}
}

// transcript is what a session said up to its end.
type transcript struct {
	stdout, stderr string
	progress       int
	started        *api.RunStarted
	exit           *api.ExecExit // nil when the connection ended first
	acks           int
}

// read reads frames to the end of the connection.
func read(t *testing.T, conn *api.FrameConn) transcript {
	t.Helper()
	done := make(chan transcript, 1)
	go func() {
		var all transcript
		for {
			frame, err := conn.Read()
			if err != nil {
				done <- all
				return
			}
			if all.exit != nil {
				t.Errorf("frame %d came after the exit", frame.Type)
			}
			switch frame.Type {
			case api.FrameStdout:
				all.stdout += string(frame.Payload)
			case api.FrameStderr:
				all.stderr += string(frame.Payload)
			case api.FrameStdinAck:
				all.acks++
			case api.FrameProgress:
				all.progress++
			case api.FrameStarted:
				all.started = &api.RunStarted{}
				err = json.Unmarshal(frame.Payload, all.started)
			case api.FrameExit:
				all.exit = &api.ExecExit{}
				err = json.Unmarshal(frame.Payload, all.exit)
			default:
				t.Errorf("unknown frame %d", frame.Type)
			}
			if err != nil {
				t.Errorf("frame %d: %v in %s", frame.Type, err, frame.Payload)
			}
		}
	}()
	return await(t, done, "the session's end")
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

func TestExecSession(t *testing.T) {
	s, _ := serveMachines(t, vmtest.Well)
	s.machine(t)
	for _, test := range []struct {
		name           string
		in             api.Exec
		send           func(*api.FrameConn) error
		stdout, stderr string
		exit           api.ExecExit
	}{
		{"Output", api.Exec{Argv: shell("echo out; echo err >&2; exit 3")}, nil, "out\n", "err\n", api.ExecExit{Code: 3}},
		{"NotFound", api.Exec{Argv: []string{"/nowhere"}}, nil, "", "", api.ExecExit{Code: 127}},
		{"NoInput", api.Exec{Argv: shell("cat")}, nil, "", "", api.ExecExit{}},
		{"Input", api.Exec{Argv: shell("cat; echo end"), Stdin: true}, func(c *api.FrameConn) error {
			return errors.Join(c.Write(api.FrameStdin, []byte("hello\n")), c.Write(api.FrameStdin, nil), c.Write(api.FrameStdinClose, nil))
		}, "hello\nend\n", "", api.ExecExit{}},
		{"Signal", api.Exec{Argv: shell("kill -TERM $$; sleep 60")}, nil, "", "", api.ExecExit{Code: 143, Signal: 15}},
		{"SignalFrame", api.Exec{Argv: shell("exec 2>/dev/null; trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.01; done")}, func(c *api.FrameConn) error {
			frame, err := c.Read() // only then there is a trap
			return errors.Join(err, unless(string(frame.Payload) == "ready\n"), c.WriteJSON(api.FrameSignal, api.ExecSignal{Signal: int(syscall.SIGTERM)}))
		}, "got\n", "", api.ExecExit{Code: 5}},
		{"Environment", api.Exec{Argv: shell("echo $A; pwd"), Env: []string{"A=b"}, Dir: "/usr"}, nil, "b\n/usr\n", "", api.ExecExit{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.in.Machine = "web"
			conn, err := s.client.Exec(t.Context(), test.in)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if test.send != nil {
				if err := test.send(conn); err != nil {
					t.Fatal(err)
				}
			}
			got := read(t, conn)
			if got.exit == nil || got.stdout != test.stdout || got.stderr != test.stderr || got.exit.Code != test.exit.Code ||
				got.exit.Signal != test.exit.Signal {
				t.Errorf("%+v, exit %+v", got, got.exit)
			}
			if (got.exit != nil && got.exit.Why != "") != (test.exit.Code == 127) {
				t.Errorf("why: %q", got.exit.Why)
			}
		})
	}
}

func unless(right bool) error {
	if !right {
		return errors.New("not what was expected")
	}
	return nil
}

func TestExecRefused(t *testing.T) {
	s, _ := serveMachines(t, vmtest.Well)
	if _, err := s.client.Exec(t.Context(), api.Exec{Machine: "nobody"}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("exec in nothing = %v", err)
	}
	// without the header Upgrade
	for target, in := range map[string]string{"machines/web/exec": "{}", "machines/run": `{"machine":{}}`} {
		if status, _, body := s.raw(t, http.MethodPost, target, in); status != http.StatusBadRequest ||
			!strings.Contains(body, api.ExecUpgrade) {
			t.Errorf("%s: %d %s", target, status, body)
		}
	}
}

// A client that breaks the protocol loses its connection, and the command dies; others go on.
func TestSessionProtocolBroken(t *testing.T) {
	s, _ := serveMachines(t, vmtest.Well)
	s.machine(t)
	for _, test := range []struct {
		name string
		send func(*api.FrameConn) error
		log  string
	}{
		{"UnknownFrame", func(c *api.FrameConn) error { return c.Write(99, nil) }, "unknown frame 99"},
		{"FrameOfTheDaemon", func(c *api.FrameConn) error { return c.WriteJSON(api.FrameExit, api.ExecExit{}) }, "unknown frame 6"},
		{"BadSignal", func(c *api.FrameConn) error { return c.Write(api.FrameSignal, []byte("nonsense")) }, "read signal"},
		{"BadSize", func(c *api.FrameConn) error { return c.Write(api.FrameResize, []byte("[]")) }, "read size of terminal"},
		{"TooMuchInput", func(c *api.FrameConn) error {
			// One fills the pipe and one waits behind it; the window's worth stays in the queue,
			// with room for a close.
			for range 4 * api.StdinWindow {
				if err := c.Write(api.FrameStdin, make([]byte, api.MaxFramePayload)); err != nil {
					return nil //nolint:nilerr // the connection was closed already
				}
			}
			return nil
		}, "the client sent more input than it may"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := s.client.Exec(t.Context(), api.Exec{Machine: "web", Argv: []string{"/bin/sleep", "61"}, Stdin: true})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			s.log.lines()
			if err := test.send(conn); err != nil {
				t.Fatal(err)
			}
			if got := read(t, conn); got.exit != nil && got.exit.Error == nil {
				t.Errorf("it ended well: %+v", got.exit)
			}
			if lines := s.awaitLog(t); !strings.Contains(strings.Join(lines, "\n"), test.log) {
				t.Errorf("log: %q, want %q", lines, test.log)
			}
		})
	}
}

// A client that leaves ends its command.
func TestExecClientLeaves(t *testing.T) {
	s, _ := serveMachines(t, vmtest.Well)
	s.machine(t)
	conn, err := s.client.Exec(t.Context(), api.Exec{Machine: "web", Argv: shell("echo $$; exec sleep 62")})
	if err != nil {
		t.Fatal(err)
	}
	frame, err := conn.Read()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(frame.Payload), &pid); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	done := make(chan struct{})
	go func() {
		s.Wait()
		close(done)
	}()
	await(t, done, "the session's end")
	awaitGone(t, pid)
}

// The end of the server ends sessions, also of commands that would go on.
func TestServerEndsSessions(t *testing.T) {
	s, _ := serveMachines(t, vmtest.Well)
	s.machine(t)
	conn, err := s.client.Exec(t.Context(), api.Exec{Machine: "web", Argv: []string{"/bin/sleep", "63"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.end()
	if got := read(t, conn); got.exit != nil && got.exit.Error == nil {
		t.Errorf("it ended well: %+v", got.exit)
	}
}

func TestRunSession(t *testing.T) {
	s, _ := serveMachines(t, vmtest.Well)
	for _, test := range []struct {
		name   string
		in     api.Run
		send   func(*api.FrameConn) error
		stdout string
		exit   api.ExecExit
		code   api.Code // of the exit's error
		left   int      // machines
	}{
		{"AutoRemove", api.Run{Machine: api.CreateMachine{AutoRemove: true}, Argv: shell("echo out; exit 3")}, nil, "out\n", api.ExecExit{Code: 3}, "", 0},
		{"Detach", api.Run{Machine: api.CreateMachine{Name: "web"}, Detach: true}, nil, "", api.ExecExit{}, "", 1},
		{"NameTaken", api.Run{Machine: api.CreateMachine{Name: "web"}, Argv: shell("true")}, nil, "", api.ExecExit{}, api.CodeConflict, 1},
		{"MuchToTell", api.Run{Machine: api.CreateMachine{AutoRemove: true, Env: []string{"A=" + strings.Repeat("x", api.MaxFramePayload)}}, Argv: append(shell("true"), strings.Repeat("y", api.MaxFramePayload))}, nil, "", api.ExecExit{}, "", 1},
		{"LongName", api.Run{Machine: api.CreateMachine{Name: strings.Repeat("x", api.MaxFramePayload)}}, nil, "", api.ExecExit{}, api.CodeInvalid, 1},
		{"BadWait", api.Run{Wait: api.WaitStopped}, nil, "", api.ExecExit{}, api.CodeInvalid, 1},
		{"EarlyFrames", api.Run{Machine: api.CreateMachine{AutoRemove: true}, Argv: shell("cat"), Stdin: true}, func(c *api.FrameConn) error {
			return errors.Join(c.Write(api.FrameStdin, []byte("early")), c.Write(api.FrameStdinClose, nil))
		}, "early", api.ExecExit{}, "", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := s.client.Run(t.Context(), test.in)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if test.send != nil {
				if err := test.send(conn); err != nil {
					t.Fatal(err)
				}
			}
			got := read(t, conn)
			if got.exit == nil || got.stdout != test.stdout || got.exit.Code != test.exit.Code {
				t.Fatalf("%+v, exit %+v", got, got.exit)
			}
			if e := got.exit.Error; (e != nil) != (test.code != "") || e != nil && e.Code != test.code ||
				(got.started == nil) != (test.code != "") {
				t.Errorf("started %+v, error %v; want %q", got.started, e, test.code)
			}
			if test.code == "" && got.progress == 0 {
				t.Error("no progress was told")
			}
			if vms, err := s.client.Machines(t.Context()); len(vms) != test.left || err != nil {
				t.Errorf("%d machines are left, want %d (%v)", len(vms), test.left, err)
			}
		})
	}
}

// A client that leaves while its machine starts, or runs, leaves no machine that was to be removed.
func TestRunClientLeaves(t *testing.T) {
	for how, wait := range map[string]api.WaitFor{vmtest.Mute: "", vmtest.Boots: api.WaitBooted, vmtest.Well: ""} {
		t.Run(how, func(t *testing.T) {
			s, c := serveMachines(t, how)
			conn, err := s.client.Run(
				t.Context(),
				api.Run{Machine: api.CreateMachine{AutoRemove: true}, Wait: wait, Argv: []string{"/bin/sleep", "64"}},
			)
			if err != nil {
				t.Fatal(err)
			}
			for stage := ""; ; {
				frame, err := conn.Read()
				if err != nil {
					t.Fatal(err)
				}
				var p api.Progress
				if frame.Type == api.FrameProgress && json.Unmarshal(frame.Payload, &p) == nil {
					stage = p.Stage
				}
				if frame.Type == api.FrameStarted || how == vmtest.Mute && stage == "wait for agent" ||
					how == vmtest.Boots && stage == "wait for boot" {
					break
				}
			}
			conn.Close()
			done := make(chan struct{})
			go func() {
				s.Wait()
				close(done)
			}()
			await(t, done, "the session's end")
			if vms, err := s.client.Machines(t.Context()); len(vms) != 0 || err != nil {
				t.Errorf("machines are left: %+v, %v", vms, err)
			}
			await(t, c.Gate.Close(), "the end of all changes")
		})
	}
}

// A run is a change until its command runs; then it is a session, which a daemon that is replaced
// does not wait for.
func TestRunAndGate(t *testing.T) {
	s, c := serveMachines(t, vmtest.Well)
	conn, err := s.client.Run(t.Context(), api.Run{Machine: api.CreateMachine{AutoRemove: true}, Argv: shell("cat"), Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for {
		frame, err := conn.Read()
		if err != nil {
			t.Fatal(err)
		}
		if frame.Type == api.FrameStarted {
			break
		}
	}
	await(t, c.Gate.Close(), "the end of all changes")
	if _, err := s.client.Run(t.Context(), api.Run{Machine: api.CreateMachine{AutoRemove: true}}); err == nil {
		late, err := s.client.Run(t.Context(), api.Run{})
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		if got := read(t, late); got.exit == nil || got.exit.Error == nil || got.exit.Error.Code != api.CodeReplaced {
			t.Errorf("a run after the gate closed: %+v", got)
		}
	}
	if err := errors.Join(conn.Write(api.FrameStdin, []byte("still here")), conn.Write(api.FrameStdinClose, nil)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, conn); got.stdout != "still here" || got.exit == nil || got.exit.Code != 0 {
		t.Errorf("the session goes on with %+v", got)
	}
}

// awaitGone returns when a process has ended.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	gone := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		for ctx.Err() == nil && syscall.Kill(pid, 0) == nil {
			continue
		}
		close(gone)
	}()
	await(t, gone, "the command's end")
}

// The head of the answer is what RFC 9110 asks for, whatever the case of the client's header.
func TestUpgradeOnTheWire(t *testing.T) {
	s, _ := serveMachines(t, vmtest.Well)
	s.machine(t)
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(
		conn,
		"POST /v1/machines/web/exec HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: BANGER-exec/1\r\nContent-Length: 17\r\n\r\n{\"argv\":[\"true\"]}",
	)
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 101 || response.Header.Get("Upgrade") != api.ExecUpgrade ||
		response.Header.Get("Connection") != "Upgrade" ||
		response.Header.Get(api.VersionHeader) != "1" {
		t.Errorf("%s %v", response.Status, response.Header)
	}
	if got := read(t, api.NewFrameConn(conn, r)); got.exit == nil || got.exit.Code != 0 {
		t.Errorf("%+v", got)
	}
}
