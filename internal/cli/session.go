package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"banger/api"
)

type sessionOptions struct {
	stdin bool // forward standard input
	tty   bool // with a pseudo terminal; this terminal goes into raw mode
}

// onTerminal reports whether a person sits here: input and output are a terminal.
func (a *app) onTerminal() bool {
	out, ok := a.Stdout.(*os.File)
	return ok && term.IsTerminal(int(a.Stdin.Fd())) && term.IsTerminal(int(out.Fd()))
}

// terminal returns what a command's pseudo terminal is to be, or nil for none.
func (a *app) terminal(o sessionOptions) *api.TTY {
	if !o.tty {
		return nil
	}
	tty := a.terminalSize()
	tty.Term = a.Getenv("TERM")
	return tty
}

// session runs a command in a VM with this process's streams and returns its exit code as an
// exitCode error.
func (a *app) session(ctx context.Context, e api.Exec, o sessionOptions) error {
	e.Stdin, e.TTY = o.stdin, a.terminal(o)
	conn, err := a.client.Exec(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	return a.converse(ctx, conn, o)
}

// converse joins this process's streams with a command that has started, and returns as session
// does.
func (a *app) converse(ctx context.Context, conn *api.FrameConn, o sessionOptions) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })() // by a signal that came before they are forwarded
	if o.tty && term.IsTerminal(int(a.Stdin.Fd())) {
		state, err := term.MakeRaw(int(a.Stdin.Fd()))
		if err != nil {
			return fmt.Errorf("put terminal into raw mode: %w", err)
		}
		defer term.Restore(int(a.Stdin.Fd()), state) //nolint:errcheck // nothing is left to do about it
		defer a.forwardResizes(conn)()
		_ = conn.WriteJSON(api.FrameResize, a.terminalSize()) // it may have changed since it was asked for; as above
	}
	defer a.forwardSignals(func(s os.Signal) {
		if number, ok := s.(syscall.Signal); ok {
			// a broken connection shows in readFrames
			_ = conn.WriteJSON(api.FrameSignal, api.ExecSignal{Signal: int(number)})
		}
	})()
	credits := make(chan struct{}, api.StdinWindow)
	if o.stdin {
		go a.forwardStdin(conn, credits)
	}
	err := a.readFrames(conn, credits)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// forwardStdin sends standard input, a frame for each credit. It ends with the process: a blocked
// read of a terminal cannot be woken.
func (a *app) forwardStdin(conn *api.FrameConn, credits chan struct{}) {
	for range cap(credits) {
		credits <- struct{}{}
	}
	buffer := make([]byte, api.MaxFramePayload)
	for range credits {
		n, err := a.Stdin.Read(buffer)
		if n > 0 && conn.Write(api.FrameStdin, buffer[:n]) != nil {
			return
		}
		if err != nil {
			break
		}
	}
	_ = conn.Write(api.FrameStdinClose, nil) // a broken connection shows in readFrames
}

// readFrames writes the command's output and returns when it ended. Output that nobody reads any
// more (a closed pipe) ends the command as it would end a local one.
func (a *app) readFrames(conn *api.FrameConn, credits chan<- struct{}) error {
	for {
		frame, err := conn.Read()
		if err != nil {
			return brokenConnection(err)
		}
		switch frame.Type {
		case api.FrameStdout:
			_, err = a.Stdout.Write(frame.Payload)
		case api.FrameStderr:
			_, err = a.Stderr.Write(frame.Payload)
		case api.FrameStdinAck:
			credits <- struct{}{} // there is room: each frame took one out
		case api.FrameExit:
			return a.exit(frame)
		}
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
}

// exit returns the end that a frame tells of: an exitCode, an error when the end is not known, or
// nil.
func (a *app) exit(frame api.Frame) error {
	var exit api.ExecExit
	if err := json.Unmarshal(frame.Payload, &exit); err != nil {
		return fmt.Errorf("read the command's end: %w", err)
	}
	switch {
	case exit.Error != nil:
		return exit.Error
	case exit.Why != "":
		fmt.Fprintf(a.Stderr, "banger: %s\n", exit.Why)
		return exitCode(exit.Code)
	case exit.Code != 0:
		return exitCode(exit.Code)
	}
	return nil
}

func brokenConnection(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) { // which of them depends on what was under way
		err = io.ErrUnexpectedEOF
	}
	return api.Errorf(api.CodeUnavailable, "the connection to the command broke: %w", err).
		WithRemedy(api.OpMachines.Remedy(api.None{}, "the machine may go on"))
}

func (a *app) terminalSize() *api.TTY {
	cols, rows, err := term.GetSize(int(a.Stdin.Fd()))
	if err != nil { // -t without a terminal: the classic size
		cols, rows = 80, 24
	}
	return &api.TTY{Rows: rows, Cols: cols}
}

func (a *app) forwardResizes(conn *api.FrameConn) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		for range changes {
			_ = conn.WriteJSON(api.FrameResize, a.terminalSize()) // a broken connection shows in readFrames
		}
	}()
	return func() {
		signal.Stop(changes)
		close(changes)
	}
}
