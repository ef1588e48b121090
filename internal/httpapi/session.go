package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"banger/api"
	"banger/internal/control"
	"banger/internal/guest"
	"banger/internal/progress"
)

// session is an upgraded connection: the client's end of one command.
type session struct {
	conn   net.Conn
	frames *api.FrameConn
	ctx    context.Context // ends when the client is gone, or broke the protocol, or the server ends
	cancel context.CancelFunc
}

// decodeUpgrade reads the input of a request that must ask for frames.
func decodeUpgrade[In any](r *http.Request) (In, error) {
	in, err := api.DecodeInput[In](r)
	if err == nil && !strings.EqualFold(r.Header.Get("Upgrade"), api.ExecUpgrade) {
		err = api.Errorf(api.CodeInvalid, "this call needs the header Upgrade: %s", api.ExecUpgrade)
	}
	return in, err
}

// newSession returns a session that has no connection yet. Its context is not the request's, which
// no longer tells of a hijacked connection that the client left.
func (s *Server) newSession() *session {
	s.sessions.Add(1)
	n := &session{}
	n.ctx, n.cancel = context.WithCancel(s.ctx)
	return n
}

// takeOver makes the request's connection the session's.
func (s *Server) takeOver(w http.ResponseWriter, n *session) error {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over connection: %w", err)
	}
	n.conn, n.frames = conn, api.NewFrameConn(conn, buffered.Reader)
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %d\r\n\r\n",
		api.ExecUpgrade, api.VersionHeader, api.Version)
	if err != nil { // the client is gone; reading its input will tell
		s.log.Debug("answer a session", "error", err)
	}
	return nil
}

func (s *Server) endSession(n *session) {
	n.cancel()
	if n.conn != nil {
		n.conn.Close()
	}
	s.sessions.Done()
}

// bindExec starts the command, upgrades the connection and passes frames until the command or the
// client ends.
func (s *Server) bindExec(c *control.Control) {
	s.handle(api.OpExec.Spec, func(w http.ResponseWriter, r *http.Request) {
		in, err := decodeUpgrade[api.Exec](r)
		if err != nil {
			fail(w, err)
			return
		}
		n := s.newSession()
		defer s.endSession(n)
		command, err := c.Exec(r.Context(), n.ctx, in)
		if err != nil {
			fail(w, err)
			return
		}
		defer command.Close()
		if err := s.takeOver(w, n); err != nil {
			fail(w, err)
			return
		}
		running := make(chan *guest.Exec, 1)
		running <- command
		go s.passInput(n, running)
		passOutput(n.frames, command)
	})
}

// bindRun upgrades the connection at once: progress goes over it, and the client's end of it ends
// the run.
func (s *Server) bindRun(c *control.Control) {
	s.handle(api.OpRun.Spec, func(w http.ResponseWriter, r *http.Request) {
		in, err := decodeUpgrade[api.Run](r)
		if err != nil {
			fail(w, err)
			return
		}
		n := s.newSession()
		defer s.endSession(n)
		if err := s.takeOver(w, n); err != nil {
			fail(w, err)
			return
		}
		running := make(chan *guest.Exec, 1)
		go s.passInput(n, running)
		ctx := progress.With(n.ctx, func(p api.Progress) { _ = n.frames.WriteJSON(api.FrameProgress, p) }) // as below
		exited := false
		err = c.Run(ctx, in, func(started api.RunStarted, command *guest.Exec) error {
			if err := n.frames.WriteJSON(api.FrameStarted, fitting(started)); err != nil {
				return err
			}
			exited = true
			if command == nil {
				return n.frames.WriteJSON(api.FrameExit, api.ExecExit{})
			}
			running <- command
			passOutput(n.frames, command)
			return nil
		})
		if err != nil {
			s.log.Warn("run", "name", in.Machine.Name, "error", err)
		}
		if err != nil && !exited {
			// the client may be gone
			_ = n.frames.WriteJSON(api.FrameExit, api.ExecExit{Error: publicError(err)})
		}
	})
}

const (
	maxArgvBytes = 16 << 10 // of the command that a start tells
	maxWhyBytes  = 4 << 10  // of the words in an exit
)

// fitting leaves out of a start what may be too long for a frame; the client has asked for it
// itself.
func fitting(started api.RunStarted) api.RunStarted {
	started.Machine.Env = nil
	bytes := 0
	for i, arg := range started.Argv {
		if bytes += len(arg) + len(`"",`); bytes > maxArgvBytes {
			started.Argv = append(started.Argv[:i:i], "…")
			break
		}
	}
	return started
}

// publicError is an error with words that fit into a frame.
func publicError(err error) *api.Error {
	e := control.PublicError(err)
	e.Message = clip(e.Message)
	return e
}

func clip(text string) string {
	if len(text) <= maxWhyBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxWhyBytes], "") + "…"
}

// passOutput sends what the command writes, and at last how it ended. The frame of an exit is sent
// in any case: a client that sees none knows that the daemon died.
func passOutput(frames *api.FrameConn, command *guest.Exec) {
	for {
		event, err := command.Recv()
		switch {
		case err != nil:
			_ = frames.WriteJSON(api.FrameExit, api.ExecExit{Error: publicError(err)}) // the client may be gone
			return
		case event.Exit != nil:
			_ = frames.WriteJSON(api.FrameExit, api.ExecExit{
				Code: event.Exit.Code, Signal: int(event.Exit.Signal), Why: clip(event.Exit.Error),
			})
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

// passInput reads the client's frames until it is gone; then, or when the client breaks the
// protocol, the session ends. Frames that come before the command runs wait for it. Input waits in
// a queue of api.StdinWindow frames for a command that is slow to read, so signals behind it pass.
func (s *Server) passInput(n *session, running <-chan *guest.Exec) {
	defer n.cancel()
	queue := make(chan []byte, api.StdinWindow+1) // one more for the close
	defer close(queue)
	var command *guest.Exec
	for {
		frame, err := n.frames.Read()
		if err != nil {
			return
		}
		if command == nil {
			select {
			case command = <-running:
			case <-n.ctx.Done():
				return
			}
			go feedStdin(n.frames, command, queue)
		}
		if err := passFrame(n.ctx, frame, command, queue); err != nil {
			s.log.Warn("exec session", "error", err)
			return
		}
	}
}

func passFrame(ctx context.Context, frame api.Frame, command *guest.Exec, queue chan<- []byte) error {
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

// feedStdin passes input on and acknowledges it. When the command takes no more, the rest is
// dropped, as a closed pipe would; its end is told by passOutput.
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
