package vm

import (
	"context"

	"banger/api"
)

// operation is a life-cycle change that is under way on one VM. A VM has at most one. It is a slot,
// not a lock: looking at the VM and talking to its guest need none, and a stronger operation ends a
// weaker one by cancelling it.
type operation struct {
	name   string
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// mode says how an operation begins and ends.
type mode int

const (
	preempt  mode = 1 << iota // cancels the operation that is under way; without it, waits until that has ended
	detached                  // goes on when the client that asked for it is gone
)

// operate runs do as the VM's only operation. do's context ends with ctx (unless detached), with
// the manager, or when another operation preempts this one; its cause says which.
func (m *Manager) operate(ctx context.Context, id, name string, how mode, do func(context.Context) error) error {
	parent := ctx
	if how&detached != 0 {
		parent = context.WithoutCancel(ctx)
	}
	opCtx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	defer context.AfterFunc(m.ctx, func() { cancel(context.Cause(m.ctx)) })()
	op := &operation{name: name, cancel: cancel, done: make(chan struct{})}
	for {
		current, err := m.claim(id, op)
		if err != nil {
			return err
		}
		if current == nil {
			break
		}
		left := ctx.Done()
		if how&preempt != 0 {
			current.cancel(api.Errorf(api.CodeCanceled, "%s was cancelled by %s", current.name, name))
			left = nil // it has begun: what it cancelled counts on it
		}
		select {
		case <-current.done:
		case <-left:
			return context.Cause(ctx)
		case <-opCtx.Done():
			return context.Cause(opCtx)
		}
	}
	defer m.release(id, op)
	return do(opCtx)
}

// change runs do as the VM's only operation, on the record as the operation before has left it:
// what was read before that one ended proves nothing.
func (m *Manager) change(
	ctx context.Context, id, name string, how mode, do func(context.Context, *machine) error,
) error {
	return m.operate(ctx, id, name, how, func(ctx context.Context) error {
		rec, err := m.store.VM(ctx, id)
		if err != nil {
			return err
		}
		return do(ctx, m.machine(rec))
	})
}

// claim makes op the VM's operation, or returns the one that is under way.
func (m *Manager) claim(id string, op *operation) (*operation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, errClosing()
	}
	if current := m.operations[id]; current != nil {
		return current, nil
	}
	m.operations[id] = op
	m.running.Add(1)
	return nil, nil
}

func (m *Manager) release(id string, op *operation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.operations, id)
	close(op.done)
	m.running.Done()
}

func errClosing() error {
	return api.Errorf(api.CodeUnavailable, "the daemon is shutting down").
		WithHint("try again: the next command starts a new one")
}
