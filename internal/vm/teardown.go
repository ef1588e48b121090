package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger/api"
)

// ending is what becomes of a VM.
type ending struct {
	remove bool
	reason string // why it is stopped, unless it is removed
}

// endSteps give back what a VM has while it runs, whatever of it there is, and record the end. A VM
// that removes itself is removed. The reason is read last: a step before may find another one.
func (m *Manager) endSteps(x *machine, e *ending) []step {
	steps := giving(x.run())
	if e.remove {
		return append(append([]step{m.noteRemoval(x)}, steps...), giving(x.made())...)
	}
	if x.rec.AutoRemove {
		return append(append(steps, m.noteRemoval(x)), giving(x.made())...)
	}
	return append(steps, step{name: "record stopped", do: func(ctx context.Context) error {
		return m.recordStopped(ctx, x, e.reason)
	}})
}

// noteRemoval is the step by which a removal that is cut is found again. A database that cannot be
// written, because the disk is full, is no reason to keep what fills the disk.
func (m *Manager) noteRemoval(x *machine) step {
	return step{name: "note removal", note: true, do: func(ctx context.Context) error {
		ctx, cancel := undoContext(ctx)
		defer cancel()
		defer m.stateChanged()
		err := m.store.SetState(ctx, x.rec.ID, api.StateRemoving, "")
		if api.CodeOf(err) == api.CodeNotFound {
			return nil // a folder without a record
		}
		return err
	}}
}

func (m *Manager) recordStopped(ctx context.Context, x *machine, reason string) error {
	ctx, cancel := undoContext(ctx)
	defer cancel()
	return m.store.SetStopped(ctx, x.rec.ID, reason, time.Now())
}

// end performs a flow that consists of an ending alone.
func (m *Manager) end(ctx context.Context, name string, x *machine, e ending) error {
	return m.endBy(ctx, flow{name: name, steps: m.endSteps(x, &e)}, x, &e)
}

// endBy performs a flow that leads to an ending. Such a flow cannot be undone: when it fails the VM
// is settled. One that was cancelled is left as it is, because whoever cancelled it ends the VM:
// another operation, or the next daemon.
func (m *Manager) endBy(ctx context.Context, f flow, x *machine, e *ending) error {
	defer m.stateChanged()
	f.quiet = true
	_, err := m.perform(ctx, f)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, m.settle(ctx, x, *e))
}

// settle brings a VM whose flow failed on the way, and could not be undone, to a state that lasts.
// A VM whose VMM lives runs, as before, unless it was to be removed; another one comes to the end
// that it was to have. What fails here too stays recorded as under way; the next operation tries
// again, or the next daemon.
func (m *Manager) settle(ctx context.Context, x *machine, e ending) error {
	defer m.stateChanged()
	recordCtx, cancel := undoContext(ctx)
	defer cancel()
	rec, err := m.store.VM(recordCtx, x.rec.ID)
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	switch rec.State {
	case api.StateCreating, api.StateRemoving:
		e.remove = true
	case api.StateStopped:
		if !e.remove {
			return nil
		}
	case api.StateRunning, api.StateStopping:
		running := m.vmms.of(rec.ID)
		if e.remove || running == nil || !running.alive() {
			break
		}
		if rec.State == api.StateRunning {
			return nil
		}
		return m.store.SetState(recordCtx, rec.ID, api.StateRunning, "")
	}
	*x.rec = rec // x itself may hold a lock still
	_, err = m.perform(ctx, flow{name: "settle", quiet: true, steps: m.endSteps(x, &e)})
	return err
}

// Remove deletes a VM. One that is not stopped is refused, or killed first with force. Once begun
// it is finished, whatever becomes of ctx.
func (m *Manager) Remove(ctx context.Context, ref string, force bool) error {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return err
	}
	how := detached
	if force {
		how |= preempt
	}
	err = m.change(ctx, rec.ID, "remove", how, func(ctx context.Context, x *machine) error {
		if !force && x.rec.State != api.StateStopped && x.rec.State != api.StateRemoving {
			return api.Errorf(api.CodeConflict, "machine %s is %s", x.rec.Name, x.rec.State).
				WithRemedy(api.OpStopMachine.Remedy(api.StopMachine{Machine: x.rec.Name}, "stop it first")).
				WithRemedy(api.OpRemoveMachine.Remedy(api.RemoveMachine{Machine: x.rec.Name, Force: true}, "or remove it as it is"))
		}
		return m.end(ctx, "remove", x, ending{remove: true})
	})
	if force && api.CodeOf(err) == api.CodeNotFound {
		return nil // what was cancelled, or its own auto-remove, has removed it
	}
	if err != nil {
		return fmt.Errorf("remove machine %s: %w", rec.Name, err)
	}
	return nil
}
