package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	agentv1 "banger/proto/agent/v1"
)

// drainIdle is how long output may pause once the process has ended, before whoever still holds its
// pipes (a daemon it left behind) is no longer listened to. All that was written before the end is
// in the pipe by then.
const drainIdle = 200 * time.Millisecond

// endOfInput is what a terminal takes for the end of input (VEOF, control-D).
const endOfInput = 4

// process is one process of Exec: a session leader, so that its group can be signalled whole.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File // nil when no input is to come; the terminal's master when there is one
	stdout *os.File // the terminal's master when there is one
	stderr *os.File // nil with a terminal
	tty    bool

	mu     sync.Mutex // guards reaped: a group is not signalled once its number is free
	reaped bool
}

// startProcess runs the command. Its error is a *notStarted when the command can not be run.
func (s *Server) startProcess(c *command, start *agentv1.ExecStart) (*process, error) {
	p := &process{cmd: &exec.Cmd{Path: c.path, Args: c.argv, Env: c.env, Dir: c.dir}, tty: start.Terminal != nil}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uid := uint32(os.Getuid()); uid == 0 { // a test's agent runs as anybody
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.user.UID, Gid: c.user.GID, Groups: c.user.Groups}
	}
	theirs, err := p.openStreams(c, start)
	defer closeAll(theirs)
	if err == nil {
		err = s.oom.lend(func() error { return withUsualSlack(p.cmd.Start) })
		if err != nil {
			err = startError(c.path, err)
		}
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// openStreams sets the command's input and output, and gives its ends of them, also with an error:
// they are closed once it has started, or is not to.
func (p *process) openStreams(c *command, start *agentv1.ExecStart) (theirs []*os.File, err error) {
	if p.tty {
		return p.openTerminal(c, start.Terminal)
	}
	in, err := p.openStdin(start)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, in)
	p.cmd.Stdin = in
	out, outWriter, err := os.Pipe()
	if err != nil {
		return theirs, fmt.Errorf("make pipe: %w", err)
	}
	theirs = append(theirs, outWriter)
	p.stdout, p.cmd.Stdout = out, outWriter
	errs, errsWriter, err := os.Pipe()
	if err != nil {
		return theirs, fmt.Errorf("make pipe: %w", err)
	}
	theirs = append(theirs, errsWriter)
	p.stderr, p.cmd.Stderr = errs, errsWriter
	return theirs, nil
}

// openStdin gives the command's end of its input: of a pipe, or of nothing when no input is to
// come.
func (p *process) openStdin(start *agentv1.ExecStart) (*os.File, error) {
	if start.StdinClosed && len(start.Stdin) == 0 {
		return os.Open(os.DevNull)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	p.stdin = w
	return r, nil
}

func (p *process) openTerminal(c *command, t *agentv1.Terminal) (theirs []*os.File, err error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	p.stdin, p.stdout = master, master
	theirs = []*os.File{slave}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr.Setctty = true // of descriptor 0 in the child
	if p.cmd.SysProcAttr.Credential != nil {
		const groupTTY = 5 // of every distribution, and of our devpts mount
		if err := slave.Chown(int(c.user.UID), groupTTY); err != nil {
			return theirs, fmt.Errorf("give terminal to %s: %w", c.user.Name, err)
		}
	}
	return theirs, p.resize(t.Size)
}

// resize sets the terminal's size; without one, or without a size, it does nothing.
func (p *process) resize(size *agentv1.TerminalSize) error {
	if !p.tty || size == nil {
		return nil
	}
	rows, cols := min(size.Rows, 1<<16-1), min(size.Cols, 1<<16-1)
	if err := pty.Setsize(p.stdout, &pty.Winsize{Rows: uint16(rows), Cols: uint16(cols)}); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

// closeStdin gives the process the end of its input.
func (p *process) closeStdin() error {
	switch {
	case p.stdin == nil:
		return nil
	case p.tty:
		_, err := p.stdin.Write([]byte{endOfInput})
		return err
	default:
		return p.stdin.Close()
	}
}

// signal reaches the process's group, unless it has ended.
func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return unix.Kill(-p.cmd.Process.Pid, sig)
}

// wait returns how the process ended, and bounds what is still read of its output.
func (p *process) wait() *agentv1.ExecExit {
	// Waiting without reaping first keeps the number taken until no signal can be under way to it.
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	_ = p.cmd.Wait() // tells the exit status again
	p.reaped = true
	p.mu.Unlock()
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			_ = f.SetReadDeadline(time.Now().Add(drainIdle))
		}
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return &agentv1.ExecExit{Code: 128 + int32(status.Signal()), Signal: int32(status.Signal())}
	}
	return &agentv1.ExecExit{Code: int32(status.ExitStatus())}
}

// ended reports whether wait is over.
func (p *process) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reaped
}

// pump hands on what is read of f until it ends, or until it falls silent after the process has
// ended. A send that blocks holds back the process: nothing is buffered in between.
func (p *process) pump(f *os.File, buf []byte, send func([]byte) error) error {
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
			if p.ended() {
				_ = f.SetReadDeadline(time.Now().Add(drainIdle))
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO): // EIO: nobody has the terminal open any more
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && p.ended():
			if waiting(f) == 0 {
				return nil
			}
			_ = f.SetReadDeadline(time.Now().Add(drainIdle))
		case err != nil:
			return err
		}
	}
}

// waiting is how many bytes can be read at once: a read past its deadline does not look.
func waiting(f *os.File) (n int) {
	raw, err := f.SyscallConn() // Fd would make reads block for good
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}

// close lets go of what is still open; closing twice is harmless.
func (p *process) close() { closeAll([]*os.File{p.stdin, p.stdout, p.stderr}) }

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
