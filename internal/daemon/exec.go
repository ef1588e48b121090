package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger/api"
	"banger/internal/guest"
)

// execStartTimeout is how long a guest may take to start a command; fifty at once under emulation take seconds.
const execStartTimeout = time.Minute

// exec starts the command, upgrades the connection and passes frames until the command or the client ends.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	body, err := decode[api.Exec](r)
	if err == nil && !strings.EqualFold(r.Header.Get("Upgrade"), api.ExecUpgrade) {
		err = api.Errorf(api.CodeInvalid, "exec needs the header Upgrade: %s", api.ExecUpgrade)
	}
	if err != nil {
		fail(w, err)
		return
	}
	agent, vm, err := s.vms.Agent(r.Context(), r.PathValue("vm"))
	if err != nil {
		fail(w, err)
		return
	}
	s.sessions.Add(1)
	defer s.sessions.Done()
	ctx, cancel := context.WithCancel(s.ctx) // a hijacked request's own context no longer tells that the client left
	defer cancel()
	defaults, err := s.images.Defaults(vm.ImageID)
	if err != nil {
		fail(w, err)
		return
	}
	command, err := startCommand(ctx, r.Context(), agent, execSpec(body, vm.Env, defaults))
	if err != nil {
		fail(w, err)
		return
	}
	defer command.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, fmt.Errorf("take over connection: %w", err))
		return
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %d\r\n\r\n", api.ExecUpgrade, api.VersionHeader, api.Version); err != nil {
		return // the client is gone
	}
	frames := api.NewFrameConn(conn, buffered.Reader)
	go func() {
		defer cancel() // the client is gone, or broke the protocol: the command ends with it
		s.passInput(ctx, frames, command)
	}()
	s.passOutput(frames, command)
}

// startCommand starts a command that lives with ctx. The start itself also ends with the client's context, and with a
// deadline: a guest may be wedged.
func startCommand(ctx, client context.Context, agent *guest.Client, spec guest.ExecSpec) (*guest.Exec, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	started := context.AfterFunc(client, func() { cancel(context.Canceled) })
	timer := time.AfterFunc(execStartTimeout, func() {
		cancel(api.Errorf(api.CodeTimeout, "the guest did not start the command within %s", execStartTimeout).
			WithHint("look at its console: banger logs NAME"))
	})
	command, err := agent.Exec(ctx, spec)
	if started() && timer.Stop() && err == nil {
		return command, nil
	}
	if err == nil {
		command.Close()
		err = context.Cause(ctx)
	}
	cancel(nil)
	return nil, err
}

// execSpec is what the guest is asked to run: what the image says, below what the VM says, below what the caller says.
func execSpec(e api.Exec, vmEnv []string, image api.ImageDefaults) guest.ExecSpec {
	spec := guest.ExecSpec{
		Argv: e.Argv, Env: slices.Concat(image.Env, vmEnv, e.Env), Dir: cmp.Or(e.Dir, image.WorkDir), User: cmp.Or(e.User, image.User), NoStdin: !e.Stdin,
	}
	if e.TTY != nil {
		spec.Terminal = &guest.Terminal{Rows: e.TTY.Rows, Cols: e.TTY.Cols, Term: e.TTY.Term}
	}
	return spec
}

// passOutput sends what the command writes, and at last how it ended. The frame of an exit is sent in any case: a
// client that sees none knows that the daemon died.
func (s *Server) passOutput(frames *api.FrameConn, command *guest.Exec) {
	for {
		event, err := command.Recv()
		switch {
		case err != nil:
			_ = frames.WriteJSON(api.FrameExit, api.ExecExit{Error: publicError(err)}) // the client may be gone
			return
		case event.Exit != nil:
			_ = frames.WriteJSON(api.FrameExit, api.ExecExit{Code: event.Exit.Code, Signal: int(event.Exit.Signal), Why: event.Exit.Error})
			return
		case event.Stdout != nil:
			err = frames.Write(api.FrameStdout, event.Stdout)
		case event.Stderr != nil:
			err = frames.Write(api.FrameStderr, event.Stderr)
		}
		if err != nil {
			return
		}
	}
}

// passInput reads the client's frames until it is gone. Input waits in a queue of api.StdinWindow frames for a command
// that is slow to read, so signals behind it pass.
func (s *Server) passInput(ctx context.Context, frames *api.FrameConn, command *guest.Exec) {
	queue := make(chan []byte, api.StdinWindow+1) // one more for the close
	defer close(queue)
	go feedStdin(frames, command, queue)
	for {
		frame, err := frames.Read()
		if err != nil {
			return
		}
		if err := s.passFrame(ctx, frame, command, queue); err != nil {
			s.log.Warn("exec session", "error", err)
			return
		}
	}
}

func (s *Server) passFrame(ctx context.Context, frame api.Frame, command *guest.Exec, queue chan<- []byte) error {
	switch frame.Type {
	case api.FrameStdin, api.FrameStdinClose:
		var input []byte // nil closes
		if frame.Type == api.FrameStdin {
			input = append([]byte{}, frame.Payload...)
		}
		select {
		case queue <- input:
			return nil
		default:
			return errors.New("the client sent more input than it may")
		}
	case api.FrameResize:
		var size api.TTY
		if err := json.Unmarshal(frame.Payload, &size); err != nil {
			return fmt.Errorf("read size of terminal: %w", err)
		}
		return ignoreGone(command.Resize(ctx, size.Rows, size.Cols))
	case api.FrameSignal:
		var signal api.ExecSignal
		if err := json.Unmarshal(frame.Payload, &signal); err != nil {
			return fmt.Errorf("read signal: %w", err)
		}
		return ignoreGone(command.Signal(ctx, syscall.Signal(signal.Signal)))
	}
	return fmt.Errorf("unknown frame %d", frame.Type)
}

// ignoreGone drops the error of a signal or resize that met a command which had just ended.
func ignoreGone(err error) error {
	if errors.Is(err, guest.ErrNotFound) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// feedStdin passes input on and acknowledges it. When the command takes no more, the rest is dropped, as a closed pipe
// would; its end is told by passOutput.
func feedStdin(frames *api.FrameConn, command *guest.Exec, queue <-chan []byte) {
	broken := false
	for input := range queue {
		switch {
		case broken:
		case input == nil:
			broken = command.CloseStdin() != nil
		default:
			broken = command.SendStdin(input) != nil
		}
		if input != nil {
			_ = frames.Write(api.FrameStdinAck, nil) // a client that is gone shows in passInput
		}
	}
}
