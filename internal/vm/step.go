package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"banger/internal/progress"
)

// step is one named part of a life-cycle operation. What do takes, undo gives back. Every undo is idempotent and
// works from the record and the folder alone, because it also runs in teardown, where do ran in another daemon's life
// or not at all.
type step struct {
	name string // as an error and the progress show it: "start VMM"
	do   func(*machine, context.Context) error
	undo func(*machine, context.Context) error // nil when do takes nothing
}

// perform does the steps in order. When one fails it and those before it are undone in reverse, in a context of their
// own that only a deadline ends; the errors are joined. It reports false when the undo failed too, so that something
// is left. A step that failed because ctx ended is told by ctx's cause.
func perform(ctx context.Context, m *machine, steps []step) (clean bool, err error) {
	for i, s := range steps {
		stage := progress.Start(ctx, s.name)
		err := s.do(m, ctx)
		stage.End(err)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		undoErr := undo(ctx, m, steps[:i+1])
		return undoErr == nil, errors.Join(fmt.Errorf("%s: %w", s.name, err), undoErr)
	}
	return true, nil
}

// undo runs the steps' undos in reverse; it tries every one and joins the errors.
func undo(ctx context.Context, m *machine, steps []step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for _, step := range slices.Backward(steps) {
		if step.undo == nil {
			continue
		}
		if err := step.undo(m, ctx); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", step.name, err))
		}
	}
	return errors.Join(errs...)
}
