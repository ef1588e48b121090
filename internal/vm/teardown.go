package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"banger/api"
	"banger/internal/firecracker"
)

// tearDownRun gives back what a start took, whatever is left of it, and records why the VM is stopped. A VM that
// removes itself is removed. Idempotent.
func (m *Manager) tearDownRun(ctx context.Context, machine *machine, reason string) error {
	defer m.stateChanged()
	machine.live = m.liveOf(machine.rec.ID)
	if err := undo(ctx, machine, startSteps); err != nil {
		return err
	}
	if machine.rec.AutoRemove {
		return m.tearDown(ctx, machine)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return m.Store.SetStopped(ctx, machine.rec.ID, reason, time.Now())
}

// tearDown removes all that there is of a VM: first what runs, then what it is made of, the record last, so that a
// teardown that was cut is found again. Idempotent.
func (m *Manager) tearDown(ctx context.Context, machine *machine) error {
	defer m.stateChanged()
	recordCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := m.Store.SetState(recordCtx, machine.rec.ID, api.StateRemoving, ""); err != nil && api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	machine.live = m.liveOf(machine.rec.ID)
	if err := undo(ctx, machine, startSteps); err != nil {
		return err // the folder stays while a VMM may write to it
	}
	return undo(ctx, machine, createSteps)
}

// Remove deletes a VM. One that is not stopped is refused, or killed first with force. Once begun it is finished,
// whatever becomes of ctx.
func (m *Manager) Remove(ctx context.Context, ref string, force bool) error {
	rec, err := m.Store.VM(ctx, ref)
	if err != nil {
		return err
	}
	how := detached
	if force {
		how |= preempt
	}
	err = m.operate(ctx, rec.ID, "remove", how, func(ctx context.Context) error {
		if rec, err = m.Store.VM(ctx, rec.ID); err != nil {
			return err
		}
		if !force && rec.State != api.StateStopped && rec.State != api.StateRemoving {
			return api.Errorf(api.CodeConflict, "VM %s is %s", rec.Name, rec.State).WithHint("stop it first, or remove it as it is: banger rm -f %s", rec.Name)
		}
		return m.tearDown(ctx, m.machine(rec))
	})
	if force && api.CodeOf(err) == api.CodeNotFound {
		return nil // what was cancelled, or its own auto-remove, has removed it
	}
	if err != nil {
		return fmt.Errorf("remove VM %s: %w", rec.Name, err)
	}
	return nil
}

// endVMM ends whatever holds the VM's lock and removes what it leaves behind. The VMM is the one this daemon knows, or
// the one that the record names, or the one that listens at the API socket. Its own children inherit the lock and may
// outlive it for moments, so the VMM is only gone when the lock is free.
func (m *machine) endVMM(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	tick := time.NewTicker(lockInterval)
	defer tick.Stop()
	for {
		process, free, err := m.findVMM()
		if err != nil {
			return err
		}
		if free {
			break
		}
		if process != nil {
			if err := kill(ctx, process); err != nil {
				return err
			}
			m.forget(process)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("something still holds %s, which VM %s ran under", m.dir.Lock(), m.rec.Name)
		}
	}
	return m.removeSockets()
}

// forget lets go of a process that has ended and of the way to its guest.
func (m *machine) forget(process *firecracker.Process) {
	process.Release()
	m.mu.Lock()
	l := m.guests[m.rec.ID]
	delete(m.guests, m.rec.ID)
	m.mu.Unlock()
	if l != nil {
		l.agent.Close() // its connection broke with the VMM
	}
	m.live = nil
}

// findVMM returns the process that runs the VM, if it can be found, and reports whether the lock says that there is
// none.
func (m *machine) findVMM() (process *firecracker.Process, free bool, err error) {
	if m.live != nil {
		return m.live.process, false, nil
	}
	if m.lock != nil {
		return nil, true, nil // a start that failed before its VMM had inherited the lock
	}
	lock, err := tryLock(m.dir.Lock())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil // the folder is gone
	}
	if err != nil {
		return nil, false, err
	}
	if lock != nil {
		return nil, true, lock.Close()
	}
	return attach(m.rec.VMMPID, m.rec.VMMStartTicks, m.dir), false, nil
}

// attach finds the process that holds a VM's lock: the recorded one, or, when the daemon died before it could record
// it, the one that listens at the API socket. It returns nil when there is neither: the VMM is about to be gone.
func attach(pid int, startTicks uint64, dir Dir) *firecracker.Process {
	if pid != 0 {
		if process, err := firecracker.Attach(pid, startTicks); err == nil {
			return process
		}
	}
	if process, err := firecracker.AttachSocket(dir.APISocket()); err == nil {
		return process
	}
	return nil
}

// kill ends a process and waits until it is gone.
func kill(ctx context.Context, process *firecracker.Process) error {
	if err := process.Kill(); err != nil {
		return fmt.Errorf("kill VMM: %w", err)
	}
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	select {
	case <-process.Done():
		return nil
	case <-timer.C:
		return fmt.Errorf("VMM %d is not gone %s after it was killed", process.PID(), killTimeout)
	case <-ctx.Done():
		return fmt.Errorf("kill VMM: %w", ctx.Err())
	}
}

func (m *machine) removeSockets() error {
	var errs []error
	for _, path := range []string{m.dir.APISocket(), m.dir.VsockSocket()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove socket: %w", err))
		}
	}
	return errors.Join(errs...)
}
