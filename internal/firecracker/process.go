package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readyInterval is how often a new VMM's socket is tried; a VMM listens within about 10 ms.
	readyInterval = 2 * time.Millisecond
	// readyTimeout is how long a VMM may take to answer.
	readyTimeout = 15 * time.Second
	// logTailBytes of a VMM that died at once stand in the error.
	logTailBytes = 2 << 10
)

// ErrGone says that the process to attach to has ended.
var ErrGone = errors.New("the process has ended")

// Process is a VMM, started by this daemon or found again. It is held by a pidfd (pidfd_open(2)),
// so a signal can never hit another process that got the same pid. It is safe for concurrent use.
type Process struct {
	pid        int
	startTicks uint64
	child      *os.Process // nil when attached
	pidfd      *os.File
	done       chan struct{} // closed when the process has ended; what is below is written before
	exitCode   int
	exitKnown  bool

	watcher sync.WaitGroup
}

// Command is how a VMM is started.
type Command struct {
	// wraps the command line to run it in other namespaces, by exec and without a fork; may be nil
	Enter     func(argv []string) []string
	Binary    string
	ID        string
	APISocket string
	LogFile   string   // takes its standard output and error; emptied first
	Lock      *os.File // inherited and kept open for the VMM's whole life; may be nil
}

// Start starts a VMM and returns when its API answers. From then on the VMM depends on nothing of
// the caller's: it has a session of its own and outlives ctx and this process. When ctx ends
// before, or the VMM dies, nothing is left of it.
func Start(ctx context.Context, c Command) (*Process, error) {
	log, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open VMM log: %w", err)
	}
	defer log.Close()
	argv := []string{c.Binary, "--api-sock", c.APISocket, "--id", c.ID}
	if c.Enter != nil {
		argv = c.Enter(argv)
	}
	command := exec.Command(argv[0], argv[1:]...) //nolint:noctx // it outlives ctx
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.Lock != nil {
		command.ExtraFiles = []*os.File{c.Lock}
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Binary, err)
	}
	p, err := watch(command.Process.Pid, command.Process)
	if err != nil {
		return nil, errors.Join(err, command.Process.Kill(), command.Wait())
	}
	if err := p.awaitAPI(ctx, c); err != nil {
		err = errors.Join(err, p.Kill())
		<-p.Done() // a killed process ends, whatever ctx says
		p.Release()
		return nil, err
	}
	return p, nil
}

// awaitAPI returns when the VMM answers.
func (p *Process) awaitAPI(ctx context.Context, c Command) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("%s did not answer within %s", c.Binary, readyTimeout))
	defer cancel()
	client := NewClient(c.APISocket)
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		if _, err := client.Info(ctx); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.Done():
			return fmt.Errorf("%s ended at once%s", c.Binary, logTail(c.LogFile))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// logTail returns the end of a log in words for an error, or nothing.
func logTail(path string) string {
	data, err := os.ReadFile(path)
	if data = bytes.TrimSpace(data); err != nil || len(data) == 0 {
		return ""
	}
	return ": " + string(data[max(0, len(data)-logTailBytes):])
}

// Attach finds a VMM that another daemon started: the process with that pid, if it started at that
// time (clock ticks since boot, field 22 of proc_pid_stat(5)). ErrGone says that it has ended.
func Attach(pid int, startTicks uint64) (*Process, error) {
	p, err := watch(pid, nil)
	if err != nil {
		return nil, err
	}
	if p.startTicks != startTicks {
		p.Release()
		return nil, fmt.Errorf("attach to VMM %d: %w: another process has its pid", pid, ErrGone)
	}
	return p, nil
}

// AttachSocket finds the VMM that listens on an API socket, by the socket's peer credentials
// (unix(7), SO_PEERCRED).
func AttachSocket(path string) (*Process, error) {
	pid, err := listener(path)
	if err != nil {
		return nil, err
	}
	p, err := watch(pid, nil)
	if err != nil {
		return nil, err
	}
	// The pid may have passed to another process before it was held; then nobody listens any more,
	// or somebody else.
	if again, err := listener(path); err != nil || again != pid {
		p.Release()
		return nil, fmt.Errorf("attach to VMM at %s: %w", path, ErrGone)
	}
	return p, nil
}

// listener returns the pid of the process that listens on a unix socket.
func listener(path string) (int, error) {
	conn, err := net.Dial("unix", path) //nolint:noctx // a local connect does not block
	if err != nil {
		return 0, fmt.Errorf("find VMM at %s: %w", path, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("find VMM at %s: %w", path, err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil {
		return 0, fmt.Errorf("find VMM at %s: %w", path, err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("find VMM at %s: %w", path, credErr)
	}
	return int(cred.Pid), nil
}

// watch holds a process and waits for its end in a goroutine of its own; child is nil unless it is
// ours to reap.
func watch(pid int, child *os.Process) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("hold VMM %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("hold VMM %d: %w", pid, err)
	}
	p := &Process{pid: pid, child: child, pidfd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	if p.startTicks, err = startTicks(pid); err != nil {
		return nil, errors.Join(fmt.Errorf("hold VMM %d: %w", pid, err), p.pidfd.Close())
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hold VMM %d: %w", pid, err), p.pidfd.Close())
	}
	p.watcher.Go(func() {
		// The runtime's poller waits for the pidfd to be readable, which it is from the process's
		// end on.
		if raw.Read(hasEnded) == nil {
			p.ended()
		}
	})
	return p, nil
}

// hasEnded reports whether the process behind a pidfd has ended.
func hasEnded(pidfd uintptr) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return n > 0
}

func (p *Process) ended() {
	if p.child != nil {
		if state, err := p.child.Wait(); err == nil {
			p.exitCode, p.exitKnown = state.ExitCode(), true
		}
	}
	close(p.done)
}

// startTicks reads when a process started.
func startTicks(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, ErrGone
	}
	if err != nil {
		return 0, err
	}
	return parseStartTicks(stat)
}

// parseStartTicks takes field 22 of proc_pid_stat(5). Field 2, the program's name in parentheses,
// may hold anything.
func parseStartTicks(stat []byte) (uint64, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const index = 22 - 3 // the fields begin behind the second
	if len(fields) <= index {
		return 0, fmt.Errorf("parse process status: %d fields", len(fields))
	}
	return strconv.ParseUint(string(fields[index]), 10, 64)
}

// PID returns the process's id, for people and for the record.
func (p *Process) PID() int { return p.pid }

// StartTicks returns when the process started, as Attach wants it.
func (p *Process) StartTicks() uint64 { return p.startTicks }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode returns the process's exit status (-1 when a signal ended it) and reports whether it is
// known: it is for a process that this daemon started, once Done is closed.
func (p *Process) ExitCode() (code int, known bool) {
	select {
	case <-p.done:
		return p.exitCode, p.exitKnown
	default:
		return 0, false
	}
}

// Kill ends the process; Done tells when it has ended. A process that has ended is no error.
func (p *Process) Kill() error { return p.Signal(unix.SIGKILL) }

// Signal sends a signal. A process that has ended is no error.
func (p *Process) Signal(signal unix.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("signal VMM %d: %w", p.pid, err)
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), signal, nil, 0) })
	if err = errors.Join(err, sendErr); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal VMM %d: %w", p.pid, err)
	}
	return nil
}

// Release stops watching the process, which goes on. Done is not closed by it.
func (p *Process) Release() {
	p.pidfd.Close()
	p.watcher.Wait()
}
