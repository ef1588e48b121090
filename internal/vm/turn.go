package vm

import (
	"context"
	"time"

	"banger/api"
)

// turnTimeout is how long somebody waits for a turn: those before may each have the network's
// keeper replaced.
const turnTimeout = 2 * time.Minute

// turn lets one at a time through, as a mutex does, but who waits for it gives up with its context
// or after a while. It is taken before what it guards is read.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn and returns what gives it back.
func (t turn) take(ctx context.Context) (give func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, turnTimeout,
		api.Errorf(api.CodeTimeout, "what others do there has not ended after %s", turnTimeout))
	defer cancel()
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
