package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"connectrpc.com/connect"

	agentv1 "banger/proto/agent/v1"
)

// ExecSpec is a command to run in a VM.
type ExecSpec struct {
	Argv     []string  // empty: the user's login shell
	Env      []string  // KEY=VALUE, on top of what a login gives
	Dir      string    // empty: the user's home
	User     string    // name or uid, with ":group" or ":gid"; empty: root
	Terminal *Terminal // nil: three pipes
	Stdin    []byte    // first input, at most 64 KiB; saves a message
	NoStdin  bool      // no input comes after Stdin
}

// Terminal is the pseudo-terminal of a command.
type Terminal struct {
	Rows, Cols int
	Term       string // TERM; empty: xterm-256color
}

// Event is one thing that a command did: exactly one field is set.
type Event struct {
	Stdout []byte // with a terminal all output
	Stderr []byte
	Exit   *Exit // the last event
}

// Exit is how a command ended.
type Exit struct {
	Code   int            // 128+Signal when it was killed; 127 not found, 126 not executable
	Signal syscall.Signal // 0 when it ended by itself
	Error  string         // why it could not start, for 126 and 127
}

// Exec is a command under way. Recv may run beside the other methods, which are safe for concurrent
// use. Close must be called; it kills what still runs.
type Exec struct {
	PID int // in the guest; 0 when the command could not start

	client *Client
	ctx    context.Context
	cancel context.CancelFunc
	stream *connect.BidiStreamForClientSimple[agentv1.ExecRequest, agentv1.ExecResponse]
	exit   *Exit // of a command that could not start, until Recv has told it
	done   bool  // Recv has told the exit

	sendMu sync.Mutex // the stream takes one sender at a time
}

// Exec starts a command, and returns when it has started. It runs until it ends, Close is called or
// ctx ends. A command that is not found or can not be run is no error here but an Exit with code
// 127 or 126; a user or folder that is not there is ErrNotFound.
func (c *Client) Exec(ctx context.Context, spec ExecSpec) (*Exec, error) {
	if len(spec.Stdin) > agentv1.MaxChunkBytes {
		return nil, fmt.Errorf("exec: first input of %d bytes: at most %d are taken", len(spec.Stdin), agentv1.MaxChunkBytes)
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &Exec{client: c, ctx: ctx, cancel: cancel}
	if err := e.start(spec); err != nil {
		err = fromAgent(ctx, "exec", err)
		cancel()
		return nil, err
	}
	return e, nil
}

func (e *Exec) start(spec ExecSpec) (err error) {
	if e.stream, err = e.client.agent.Exec(e.ctx); err != nil {
		return err
	}
	// A send fails with EOF when the agent has refused already; Receive tells why.
	if err := e.stream.Send(&agentv1.ExecRequest{Request: &agentv1.ExecRequest_Start{Start: startOf(spec)}}); err != nil &&
		!errors.Is(err, io.EOF) {
		return err
	}
	if spec.NoStdin {
		if err := e.stream.CloseRequest(); err != nil {
			return err
		}
	}
	first, err := e.stream.Receive()
	if err != nil {
		return err
	}
	switch r := first.Response.(type) {
	case *agentv1.ExecResponse_Started:
		e.PID = int(r.Started.Pid)
	case *agentv1.ExecResponse_Exit:
		e.exit = exitOf(r.Exit)
	default:
		return errors.New("the agent sent output before the start")
	}
	return nil
}

func startOf(spec ExecSpec) *agentv1.ExecStart {
	start := &agentv1.ExecStart{
		Argv: spec.Argv, Env: spec.Env, Cwd: spec.Dir, User: spec.User, Stdin: spec.Stdin, StdinClosed: spec.NoStdin,
	}
	if t := spec.Terminal; t != nil {
		start.Terminal = &agentv1.Terminal{Term: t.Term, Size: sizeOf(t.Rows, t.Cols)}
	}
	return start
}

// Recv waits for the next event. After the exit it returns io.EOF. Its error is ErrUnreachable when
// the VM or the connection went away first. A caller that does not call it holds the command back
// once its pipes are full.
func (e *Exec) Recv() (Event, error) {
	if e.done {
		return Event{}, io.EOF
	}
	if e.exit != nil {
		e.done = true
		return Event{Exit: e.exit}, nil
	}
	r, err := e.stream.Receive()
	if errors.Is(err, io.EOF) {
		return Event{}, fmt.Errorf("exec: %w: stream ended without exit", ErrUnreachable)
	}
	if err != nil {
		return Event{}, fromAgent(e.ctx, "exec", err)
	}
	switch r := r.Response.(type) {
	case *agentv1.ExecResponse_Stdout:
		return Event{Stdout: r.Stdout}, nil
	case *agentv1.ExecResponse_Stderr:
		return Event{Stderr: r.Stderr}, nil
	case *agentv1.ExecResponse_Exit:
		e.done = true
		return Event{Exit: exitOf(r.Exit)}, nil
	}
	return Event{}, errors.New("exec: the agent sent an event of no known kind")
}

func exitOf(exit *agentv1.ExecExit) *Exit {
	return &Exit{Code: int(exit.Code), Signal: syscall.Signal(exit.Signal), Error: exit.Error}
}

// SendStdin gives input to the command. It blocks while the command does not read. Input for a
// command that has ended is thrown away.
func (e *Exec) SendStdin(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), agentv1.MaxChunkBytes)
		if err := e.send(&agentv1.ExecRequest{Request: &agentv1.ExecRequest_Stdin{Stdin: b[:n]}}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// CloseStdin ends the command's input; with a terminal it types control-D.
func (e *Exec) CloseStdin() error {
	return e.send(&agentv1.ExecRequest{Request: &agentv1.ExecRequest_CloseStdin{CloseStdin: &agentv1.CloseStdin{}}})
}

func (e *Exec) send(r *agentv1.ExecRequest) error {
	e.sendMu.Lock()
	defer e.sendMu.Unlock()
	if err := e.stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		return fromAgent(e.ctx, "send input", err)
	}
	return nil
}

// Resize sets the size of the command's terminal.
func (e *Exec) Resize(ctx context.Context, rows, cols int) error {
	request := &agentv1.ControlRequest{Pid: uint32(e.PID), Control: &agentv1.ControlRequest_Resize{Resize: sizeOf(rows, cols)}}
	_, err := unary(ctx, "resize terminal", callTimeout, e.client.agent.Control, request)
	return err
}

// Signal sends a signal to the command's process group. ErrNotFound says that it has ended.
func (e *Exec) Signal(ctx context.Context, signal syscall.Signal) error {
	request := &agentv1.ControlRequest{Pid: uint32(e.PID), Control: &agentv1.ControlRequest_Signal{Signal: int32(signal)}}
	_, err := unary(ctx, "signal command", callTimeout, e.client.agent.Control, request)
	return err
}

func sizeOf(rows, cols int) *agentv1.TerminalSize {
	return &agentv1.TerminalSize{Rows: uint32(max(rows, 0)), Cols: uint32(max(cols, 0))}
}

// Close ends the stream and kills the command if it still runs. Closing twice is harmless.
func (e *Exec) Close() error {
	if !e.done {
		e.cancel() // first, or a blocked sender would hold back the rest
	}
	e.sendMu.Lock()
	_ = e.stream.CloseRequest()
	e.sendMu.Unlock()
	_ = e.stream.CloseResponse()
	e.cancel()
	return nil
}
