package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// firstFD is the number under which a child sees the first of its extra files.
const firstFD = 3

// A Machine is a running QEMU. Its methods may be called concurrently, except those on one drive.
type Machine struct {
	*Monitor
	process *process
	vsock   net.Conn
	done    chan struct{}
	closed  chan struct{} // see PortClosed

	mu     sync.Mutex
	ended  Reason
	drives map[string]*driveFiles // by the drive's id; what they point to belongs to whoever works on the drive
}

// Reason is why a guest came to its end, QEMU's ShutdownCause; empty when QEMU died without a word.
type Reason string

// Clean reports whether the guest itself ended: power off, reset or a panic that ended in a reset.
func (r Reason) Clean() bool {
	return r == "guest-shutdown" || r == "guest-reset" || r == "guest-panic"
}

// Stdio is what the guest's console is connected to when the plan has no file for it.
type Stdio struct {
	In  io.Reader
	Out io.Writer
}

// Start runs QEMU with plan and waits until it has built the machine, which is then stopped. taps
// are the files of plan.NICs, in order; Start sets their FD fields and those of the sockets. A
// vsockPort that is not empty adds a port of that name, whose host end is Vsock. QEMU dies with
// this process.
func Start(
	ctx context.Context, binary string, plan Plan, taps []*os.File, vsockPort string, stdio Stdio,
) (*Machine, error) {
	m := &Machine{done: make(chan struct{}), closed: make(chan struct{}, 1), drives: map[string]*driveFiles{}}
	monitor, monitorFile, err := socketPair("monitor")
	if err != nil {
		return nil, err
	}
	defer monitorFile.Close()
	files := []*os.File{monitorFile}
	plan.MonitorFD = firstFD
	if vsockPort != "" {
		conn, file, err := socketPair("vsock")
		if err != nil {
			monitor.Close()
			return nil, err
		}
		defer file.Close()
		m.vsock = conn
		files = append(files, file)
		plan.VsockFD, plan.Port = firstFD+1, vsockPort
	}
	if plan.Initrd != "" {
		initrd, err := alignedInitrd(plan.Initrd)
		if err != nil {
			monitor.Close()
			m.closeVsock()
			return nil, err
		}
		defer initrd.Close()
		plan.Initrd = fmt.Sprintf("/proc/self/fd/%d", firstFD+len(files))
		files = append(files, initrd)
	}
	plan.NICs = append([]NIC(nil), plan.NICs...)
	for i := range plan.NICs {
		plan.NICs[i].FD = firstFD + len(files)
		files = append(files, taps[i])
	}
	if err := m.start(ctx, binary, plan, files, monitor, stdio); err != nil {
		monitor.Close()
		m.closeVsock()
		return nil, err
	}
	return m, nil
}

func (m *Machine) start(
	ctx context.Context, binary string, plan Plan, files []*os.File, monitor net.Conn, stdio Stdio,
) error {
	args, err := plan.Args()
	if err != nil {
		return err
	}
	if m.process, err = startProcess(binary, args, stdio.In, stdio.Out, files); err != nil {
		return err
	}
	files[0].Close() // QEMU's end of the monitor: else the end of QEMU would not be seen
	m.Monitor = newMonitor(monitor, m.event)
	go func() {
		<-m.process.done
		monitor.Close() // in case a grandchild holds QEMU's end
		<-m.Monitor.done
		close(m.done)
	}()
	if err := m.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		died := ctx.Err() == nil
		m.Kill()
		if died {
			return m.process.deathError()
		}
		return fmt.Errorf("start qemu: %w", err)
	}
	return nil
}

func (m *Machine) event(e Event) {
	switch e.Name {
	case "SHUTDOWN":
		var data struct{ Reason Reason }
		if json.Unmarshal(e.Data, &data) == nil {
			m.mu.Lock()
			m.ended = data.Reason
			m.mu.Unlock()
		}
	case "VSERPORT_CHANGE":
		var data struct{ Open bool }
		if json.Unmarshal(e.Data, &data) != nil {
			return
		}
		// The news of a port that has been opened again is old.
		select {
		case <-m.closed:
		default:
		}
		if !data.Open {
			m.closed <- struct{}{}
		}
	}
}

// PortClosed receives when the guest's program has closed the port behind Vsock and not opened it
// again since.
func (m *Machine) PortClosed() <-chan struct{} { return m.closed }

// Vsock is the host's end of the virtio-serial port, nil when there is none.
func (m *Machine) Vsock() net.Conn { return m.vsock }

// PID is QEMU's.
func (m *Machine) PID() int { return m.process.cmd.Process.Pid }

// Done is closed when QEMU has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err waits for QEMU's end and returns nil when it was the guest's own doing.
func (m *Machine) Err() error {
	<-m.done
	m.mu.Lock()
	reason := m.ended
	m.mu.Unlock()
	if reason.Clean() && m.process.err == nil {
		return nil
	}
	if reason != "" {
		return fmt.Errorf("%w (%s)", m.process.deathError(), reason)
	}
	return m.process.deathError()
}

// Kill ends QEMU at once and waits for it.
func (m *Machine) Kill() {
	m.process.kill()
	<-m.done
	m.closeVsock()
}

func (m *Machine) closeVsock() {
	if m.vsock != nil {
		m.vsock.Close()
	}
}

// Continue lets the guest run, at first or after Pause. Repeating it is no error.
func (m *Machine) Continue(ctx context.Context) error { return m.Execute(ctx, "cont", nil, nil) }

// Pause stops the guest's CPUs. Repeating it is no error.
func (m *Machine) Pause(ctx context.Context) error { return m.Execute(ctx, "stop", nil, nil) }

// CtrlAltDel presses the three keys.
func (m *Machine) CtrlAltDel(ctx context.Context) error {
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	keys := []key{{"qcode", "ctrl"}, {"qcode", "alt"}, {"qcode", "delete"}}
	return m.Execute(ctx, "send-key", map[string]any{"keys": keys}, nil)
}

// socketPair returns a connected pair: ours as a Conn, the child's as a File.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make %s socket: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make %s socket: %w", name, err)
	}
	return conn, theirs, nil
}
