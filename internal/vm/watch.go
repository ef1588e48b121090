package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/firecracker"
)

// watch records the VMM's end when nobody asked for it.
func (m *Manager) watch(id string, running *runningVMM) {
	m.mu.Lock()
	if m.closing {
		m.mu.Unlock()
		return
	}
	m.running.Add(1)
	m.mu.Unlock()
	go func() {
		defer m.running.Done()
		if !m.attend(id, running) {
			return
		}
		if err := m.recordEnd(id, running); err != nil && m.ctx.Err() == nil {
			m.log.Error("record the end of a VMM", "vm", id, "error", err)
		}
	}()
}

// attend keeps the console's log small until the VMM ends; it reports false when the manager closes
// before.
func (m *Manager) attend(id string, running *runningVMM) bool {
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	for {
		select {
		case <-running.process.Done():
			return true
		case <-m.ctx.Done():
			return false
		case <-tick.C:
			if err := trimConsole(m.ctx, m.Dir(id)); err != nil {
				m.log.Warn("trim the console's log", "vm", id, "error", err)
			}
		}
	}
}

const (
	// maxConsoleBytes is where a console's log is moved aside; together with the limit on its rate
	// it bounds what a guest can write on the host.
	maxConsoleBytes = 16 << 20
	trimInterval    = 30 * time.Second
)

// trimConsole moves a large log aside. The VMM goes on appending to the same file, so what it
// writes between the copy and the cut is lost.
func trimConsole(ctx context.Context, dir Dir) error {
	info, err := os.Stat(dir.ConsoleLog())
	if err != nil || info.Size() <= maxConsoleBytes {
		return err
	}
	old := dir.ConsoleLog() + ".old"
	if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := disk.Copy(ctx, dir.ConsoleLog(), old); err != nil {
		return err
	}
	return os.Truncate(dir.ConsoleLog(), 0)
}

// recordEnd does nothing when an operation has dealt with the end already.
func (m *Manager) recordEnd(id string, running *runningVMM) error {
	err := m.change(m.ctx, id, "record end", 0, func(ctx context.Context, x *machine) error {
		if m.vmms.of(id) != running {
			return nil
		}
		reason := endReason(running.process, x.dir)
		m.log.Info("a VMM ended", "vm", id, "name", x.rec.Name, "reason", reason)
		return m.end(ctx, "record end", x, ending{reason: reason})
	})
	if api.CodeOf(err) == api.CodeNotFound {
		return nil // it was removed
	}
	return err
}

// endReason says why a VMM ended that nobody stopped; process is nil when no daemon saw it. Only a
// child's exit status is known; an adopted VMM that ended well has said so in its log.
func endReason(process *firecracker.Process, dir Dir) string {
	console := tailOf(dir.ConsoleLog(), 16<<10)
	if i := bytes.LastIndex(console, []byte("Kernel panic - not syncing")); i >= 0 {
		line, _, _ := bytes.Cut(console[i:], []byte("\n"))
		return "guest panicked: " + string(bytes.TrimSpace(line))
	}
	code, known := 0, false
	if process != nil {
		code, known = process.ExitCode()
	}
	if !known && bytes.Contains(tailOf(dir.VMMLog(), 4<<10), []byte("Firecracker exiting successfully. exit_code=0")) {
		code, known = 0, true
	}
	switch {
	case known && code == 0:
		return "guest powered off"
	case known:
		return fmt.Sprintf("vmm died: exit status %d", code)
	}
	return "vmm died"
}
