package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/control"
	"banger/internal/control/controltest"
	"banger/internal/guest"
	"banger/internal/progress"
	"banger/internal/vmtest"
)

// output reads what a command writes to its end.
func output(command *guest.Exec) (string, *guest.Exit, error) {
	text := ""
	for {
		event, err := command.Recv()
		if err != nil || event.Exit != nil {
			return text, event.Exit, err
		}
		text += string(event.Stdout)
	}
}

// left returns the names of the machines there are.
func left(t *testing.T, c *control.Control) []string {
	t.Helper()
	vms, err := c.Machines(t.Context(), api.None{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, v := range vms {
		names = append(names, v.Name+" "+string(v.State))
	}
	return names
}

// The command of a run is what the image and the caller make of it together.
func TestRun(t *testing.T) {
	c := controltest.New(t, vmtest.Well, api.ImageDefaults{
		Env: []string{
			"WHO=image",
			"FROM=image",
		}, WorkDir: "/usr", Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"echo $WHO $FROM in $PWD"},
	})
	none := ""
	for _, test := range []struct {
		name string
		in   api.Run
		argv []string
		want string
	}{
		{"Image", api.Run{}, []string{"/bin/sh", "-c", "echo $WHO $FROM in $PWD"}, "image image in /usr\n"},
		{"MachineAndCaller", api.Run{Machine: api.CreateMachine{Env: []string{"WHO=machine"}}, Env: []string{"FROM=caller"}, Dir: "/"}, []string{"/bin/sh", "-c", "echo $WHO $FROM in $PWD"}, "machine caller in /\n"},
		{"Command", api.Run{Argv: []string{"echo hi"}}, []string{"/bin/sh", "-c", "echo hi"}, "hi\n"},
		{"NoEntrypoint", api.Run{Argv: []string{"echo", "hi"}, Entrypoint: &none}, []string{"echo", "hi"}, "hi\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.in.Machine.AutoRemove = true
			called := 0
			err := c.Run(t.Context(), test.in, func(started api.RunStarted, command *guest.Exec) error {
				called++
				if diff := cmp.Diff(test.argv, started.Argv); diff != "" {
					t.Errorf("argv (-want +got):\n%s", diff)
				}
				if started.Machine.State != api.StateRunning || len(left(t, c)) != 1 {
					t.Errorf("started with %+v", started.Machine)
				}
				text, exit, err := output(command)
				if text != test.want || exit == nil || exit.Code != 0 {
					t.Errorf("output %q, exit %+v, %v", text, exit, err)
				}
				return nil
			})
			if err != nil || called != 1 {
				t.Errorf("Run = %v, started was called %d times", err, called)
			}
			if names := left(t, c); len(names) != 0 {
				t.Errorf("machines are left: %q", names)
			}
		})
	}
}

// What a run leaves, by what was asked for and how far it came.
func TestRunLeaves(t *testing.T) {
	fails := errors.New("nobody listens")
	for _, test := range []struct {
		name    string
		how     string
		in      api.Run
		started error // what the caller makes of the start
		code    api.Code
		want    []string
	}{
		{"Keep", vmtest.Well, api.Run{Machine: api.CreateMachine{Name: "web"}, Argv: []string{"true"}}, nil, "", []string{"web running"}},
		{"Detach", vmtest.Well, api.Run{Machine: api.CreateMachine{Name: "web"}, Detach: true}, nil, "", []string{"web running"}},
		{"DetachAutoRemove", vmtest.Well, api.Run{Machine: api.CreateMachine{Name: "web", AutoRemove: true}, Detach: true}, nil, "", []string{"web running"}},
		{"AutoRemove", vmtest.Well, api.Run{Machine: api.CreateMachine{AutoRemove: true}, Argv: []string{"true"}}, nil, "", []string{}},
		{"StartedFails", vmtest.Well, api.Run{Machine: api.CreateMachine{AutoRemove: true}, Argv: []string{"true"}}, fails, api.CodeInternal, []string{}},
		{"NoSuchUser", vmtest.Well, api.Run{Machine: api.CreateMachine{AutoRemove: true}, Argv: []string{"true"}, User: "nosuch"}, nil, api.CodeNotFound, []string{}},
		{"NotStarted", vmtest.Refuse, api.Run{Machine: api.CreateMachine{Name: "web"}, Argv: []string{"true"}}, nil, api.CodeInternal, []string{"web stopped"}},
		{"NotStartedAutoRemove", vmtest.Refuse, api.Run{Machine: api.CreateMachine{AutoRemove: true}, Argv: []string{"true"}}, nil, api.CodeInternal, []string{}},
		{"BootTimeout", vmtest.Mute, api.Run{Machine: api.CreateMachine{AutoRemove: true}, BootTimeoutMS: 1, Argv: []string{"true"}}, nil, api.CodeTimeout, []string{}},
		{"BadTimeout", vmtest.Well, api.Run{Machine: api.CreateMachine{AutoRemove: true}, BootTimeoutMS: -1, Argv: []string{"true"}}, nil, api.CodeInvalid, []string{}},
		{"BadName", vmtest.Well, api.Run{Machine: api.CreateMachine{Name: "Bad"}}, nil, api.CodeInvalid, []string{}},
		{"BadWait", vmtest.Well, api.Run{Wait: api.WaitStopped}, nil, api.CodeInvalid, []string{}},
		{"DetachedCommand", vmtest.Well, api.Run{Detach: true, Argv: []string{"true"}}, nil, api.CodeInvalid, []string{}},
		{"OwnLease", vmtest.Well, api.Run{Machine: api.CreateMachine{Lease: true}}, nil, api.CodeInvalid, []string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := controltest.New(t, test.how, api.ImageDefaults{})
			err := c.Run(t.Context(), test.in, func(_ api.RunStarted, command *guest.Exec) error {
				if (command == nil) != test.in.Detach {
					t.Errorf("the command is %v", command)
				}
				return test.started
			})
			if (err == nil) != (test.code == "") || test.code != "" && control.PublicError(err).Code != test.code {
				t.Errorf("Run = %v, want code %q", err, test.code)
			}
			if diff := cmp.Diff(test.want, left(t, c)); diff != "" {
				t.Errorf("machines (-want +got):\n%s", diff)
			}
			if empty := c.Gate.Close(); !isDone(empty) {
				_, inside := c.Gate.State()
				t.Errorf("the gate still counts %q", inside)
			}
		})
	}
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-time.After(10 * time.Second):
		return false
	}
}

// A client that leaves, at any stage, leaves no machine that was to be removed; the run counts as a
// change until its command runs.
func TestRunClientLeaves(t *testing.T) {
	for stage, how := range map[string]string{"make disk": vmtest.Well, "wait for agent": vmtest.Mute, "wait for boot": vmtest.Boots} {
		t.Run(stage, func(t *testing.T) {
			c := controltest.New(t, how, api.ImageDefaults{})
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			var inside []string
			seen := map[string]bool{}
			ctx = progress.With(ctx, sync1(func(p api.Progress) {
				seen[p.Stage] = true
				if p.Stage == stage && ctx.Err() == nil {
					c.Gate.Close()
					_, inside = c.Gate.State()
					leave()
				}
			}))
			err := c.Run(
				ctx,
				api.Run{Machine: api.CreateMachine{Name: "web", AutoRemove: true}, Wait: api.WaitBooted, Argv: []string{"true"}},
				func(api.RunStarted, *guest.Exec) error {
					t.Error("the command was started")
					return nil
				},
			)
			if !seen[stage] {
				t.Errorf("there was no such stage: %v", seen)
			}
			if control.PublicError(err).Code != api.CodeCanceled {
				t.Errorf("Run = %v", err)
			}
			if names := left(t, c); len(names) != 0 {
				t.Errorf("machines are left: %q", names)
			}
			if len(inside) != 1 || !strings.HasPrefix(inside[0], "run web (") {
				t.Errorf("the gate counted %q", inside)
			}
		})
	}
}

// sync1 calls do for one event at a time.
func sync1(do func(api.Progress)) progress.Reporter {
	var mu sync.Mutex
	return func(p api.Progress) {
		mu.Lock()
		defer mu.Unlock()
		do(p)
	}
}

// While its command runs a run is no change any more: a daemon that is replaced does not wait for
// it.
func TestRunLeavesTheGate(t *testing.T) {
	c := controltest.New(t, vmtest.Well, api.ImageDefaults{})
	err := c.Run(
		t.Context(),
		api.Run{Machine: api.CreateMachine{AutoRemove: true}, Argv: []string{"/bin/sleep", "65"}},
		func(_ api.RunStarted, command *guest.Exec) error {
			if !isDone(c.Gate.Close()) {
				return errors.New("the gate waits for the command")
			}
			return command.Close()
		},
	)
	if err != nil {
		t.Error(err)
	}
	if err := c.Run(t.Context(), api.Run{}, nil); api.CodeOf(err) != api.CodeReplaced {
		t.Errorf("Run of a daemon that makes way = %v", err)
	}
}

func TestExec(t *testing.T) {
	c := controltest.New(t, vmtest.Well, api.ImageDefaults{Env: []string{"A=image"}})
	v, err := c.CreateMachine(t.Context(), api.CreateMachine{Name: "web", Env: []string{"B=machine"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), t.Context(), api.Exec{Machine: "web"}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("exec in a stopped machine = %v", err)
	}
	if _, err := c.StartMachine(t.Context(), api.StartMachine{Machine: v.ID}); err != nil {
		t.Fatal(err)
	}
	command, err := c.Exec(
		t.Context(),
		t.Context(),
		api.Exec{Machine: "web", Argv: []string{"/bin/sh", "-c", "echo $A $B; cat"}, Stdin: true},
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(command.SendStdin([]byte("x")), command.CloseStdin()); err != nil {
		t.Error(err)
	}
	if text, exit, err := output(command); text != "image machine\nx" || exit == nil || exit.Code != 0 {
		t.Errorf("output %q, exit %+v, %v", text, exit, err)
	}
	command.Close()

	// The end of the session ends the command; the end of the client does only before it has
	// started.
	client, gone := context.WithCancel(t.Context())
	session, end := context.WithCancel(t.Context())
	defer end()
	command, err = c.Exec(
		client,
		session,
		api.Exec{Machine: "web", Argv: []string{"/bin/sh", "-c", "echo on; read x; echo $x"}, Stdin: true},
	)
	if err != nil {
		t.Fatal(err)
	}
	defer command.Close()
	gone()
	if err := command.SendStdin([]byte("goes on\n")); err != nil {
		t.Error(err)
	}
	if text, exit, err := output(command); text != "on\ngoes on\n" || exit == nil {
		t.Errorf("after the client's end: %q, %+v, %v", text, exit, err)
	}
	if _, err := c.Exec(client, session, api.Exec{Machine: "web", Argv: []string{"true"}}); control.PublicError(
		err,
	).Code != api.CodeCanceled {
		t.Errorf("exec of a client that is gone = %v", err)
	}
}

// stream is a download into memory.
type stream struct {
	strings.Builder
	flushed int
}

func (s *stream) Flush() error {
	s.flushed++
	return nil
}

func TestLogs(t *testing.T) {
	c := controltest.New(t, vmtest.Well, api.ImageDefaults{})
	if _, err := c.CreateMachine(t.Context(), api.CreateMachine{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	err := c.Logs(t.Context(), api.Logs{Machine: "web"}, &stream{})
	e, _ := errors.AsType[*api.Error](err)
	if e == nil || e.Code != api.CodeConflict || len(e.Remedies) != 1 {
		t.Fatalf("logs of a machine that never started = %v", err)
	}
	if in, ok := api.OpStartMachine.Input(e.Remedies[0]); !ok || in.Machine != "web" {
		t.Errorf("the remedy is %+v", e.Remedies[0])
	}
	if err := c.Logs(t.Context(), api.Logs{Machine: "nobody"}, &stream{}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("logs of nothing = %v", err)
	}
	if _, err := c.StartMachine(t.Context(), api.StartMachine{Machine: "web"}); err != nil {
		t.Fatal(err)
	}
	var once stream
	if err := c.Logs(t.Context(), api.Logs{Machine: "web"}, &once); err != nil ||
		!strings.Contains(once.String(), "Linux version 6.12\n") ||
		once.flushed == 0 {
		t.Errorf("logs = %q, %v", once.String(), err)
	}
	followed := make(chan error, 1)
	var follow stream
	go func() { followed <- c.Logs(t.Context(), api.Logs{Machine: "web", Follow: true}, &follow) }()
	if _, err := c.StopMachine(t.Context(), api.StopMachine{Machine: "web"}); err != nil {
		t.Fatal(err)
	}
	if err := <-followed; err != nil || !strings.Contains(follow.String(), "Linux version 6.12\n") {
		t.Errorf("logs that were followed to the stop = %q, %v", follow.String(), err)
	}
}

// Timeouts that cannot be meant are refused before anything is done.
func TestNegativeTimeouts(t *testing.T) {
	c := controltest.New(t, vmtest.Well, api.ImageDefaults{})
	for field, err := range map[string]error{
		"boot_timeout_ms":                     second(c.StartMachine(t.Context(), api.StartMachine{Machine: "nobody", BootTimeoutMS: -1})),
		"timeout_ms":                          second(c.StopMachine(t.Context(), api.StopMachine{Machine: "nobody", TimeoutMS: -1})),
		"boot_timeout_ms: a time":             second(c.RestartMachine(t.Context(), api.RestartMachine{Machine: "nobody", BootTimeoutMS: -5})),
		"timeout_ms: a timeout":               second(c.RestartMachine(t.Context(), api.RestartMachine{Machine: "nobody", TimeoutMS: -5})),
		"stop_timeout_ms":                     second(c.BuildImage(t.Context(), api.BuildImage{Name: "x", StopTimeoutMS: -1}, io.Discard)),
		"boot_timeout_ms: a timeout of -1 ms": second(c.BuildImage(t.Context(), api.BuildImage{Name: "x", BootTimeoutMS: -1}, io.Discard)),
	} {
		if err == nil || api.CodeOf(err) != api.CodeInvalid || !strings.Contains(fmt.Sprint(err), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := c.BuildImage(t.Context(), api.BuildImage{Name: "x", Sources: map[string]string{"cpus": "4"}}, io.Discard); api.CodeOf(
		err,
	) != api.CodeInvalid {
		t.Errorf("a build with a setting that is not its own = %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
