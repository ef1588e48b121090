package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"banger/internal/progress"
)

// step is one named part of a flow. What do takes, undo gives back.
type step struct {
	name string // as an error and the progress show it: "start VMM"
	do   func(context.Context) error
	undo func(context.Context) error // idempotent; nil when do takes nothing, or leads only forward
	uses bool                        // while its undo fails, what was taken before it is in use, and stays
	// do only notes for the next daemon what is under way: that it cannot stops nothing
	note bool
}

// flow is one change of a VM: a list of steps. What a flow takes for the VM are resources
// (machine.go), so that teardown knows how to give it back whichever flow took it.
type flow struct {
	name  string
	quiet bool // its steps are no stages that a user sees
	steps []step
}

// moment is a side of a step.
type moment string

const (
	before moment = "before"
	after  moment = "after"
)

// perform does the steps in order. When one fails it and those before it are undone in reverse, in
// a context of their own that only a deadline ends; the errors are joined. It reports false when
// the undo failed too, so that something is left. A step that failed because ctx ended is told by
// ctx's cause.
func (m *Manager) perform(ctx context.Context, f flow) (clean bool, err error) {
	for i, s := range f.steps {
		err := m.performStep(ctx, f, s)
		if err == nil {
			continue
		}
		if s.note {
			m.log.Warn("note what is under way", "flow", f.name, "step", s.name, "error", err)
			continue
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		undoErr := m.undo(ctx, f.name, f.steps[:i+1])
		return undoErr == nil, errors.Join(fmt.Errorf("%s: %w", s.name, err), undoErr)
	}
	return true, nil
}

func (m *Manager) performStep(ctx context.Context, f flow, s step) (err error) {
	if !f.quiet {
		stage := progress.Start(ctx, s.name)
		defer func() { stage.End(err) }()
	}
	return m.between(f.name, s.name, func() error { return s.do(ctx) })
}

// undo runs the steps' undos in reverse and joins the errors. One that fails keeps those from being
// tried that what it should have given back uses, and no others.
func (m *Manager) undo(ctx context.Context, flow string, steps []step) error {
	ctx, cancel := undoContext(ctx)
	defer cancel()
	var errs []error
	for _, s := range slices.Backward(steps) {
		if s.undo == nil {
			continue
		}
		name := "undo " + s.name
		if err := m.between(flow, name, func() error { return s.undo(ctx) }); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			if s.uses {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// between does a step between the two moments at which a test can have it fail, or the daemon die.
func (m *Manager) between(flow, step string, do func() error) error {
	if m.fault == nil {
		return do()
	}
	if err := m.fault(flow, step, before); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return m.fault(flow, step, after)
}

// undoContext is what a rollback or teardown works in: it does not end with its caller, but after a
// while.
func undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	cause := fmt.Errorf("not undone within %s", undoTimeout)
	return context.WithTimeoutCause(context.WithoutCancel(ctx), undoTimeout, cause)
}
