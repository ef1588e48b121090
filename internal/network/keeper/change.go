package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"banger/internal/network"
	"banger/internal/network/plan"
)

// writerTimeout is how long a change waits for those before it: one takes milliseconds, and twice
// namespace.RequestTimeout when the holder stands still. The client gives up soon after.
const writerTimeout = 50 * time.Second

// maxEndpoints is how many VMs one network carries; the kernel's bridge ends at 1023 ports.
const maxEndpoints = 1000

// settleInterval is how often what a change left undone is tried again.
const settleInterval = 10 * time.Second

// enforcer makes a part of the network act on a state.
type enforcer func(plan.State) error

// beginWrite waits until this caller alone may change the network, or ctx ends. end lets the next
// one.
func (k *keeper) beginWrite(ctx context.Context) (end func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, writerTimeout,
		fmt.Errorf("an earlier one has not ended within %s", writerTimeout))
	defer cancel()
	if ctx.Err() == nil { // or an end that has come might lose to a free place
		select {
		case k.writer <- struct{}{}:
			return func() { <-k.writer }, nil
		case <-ctx.Done():
		}
	}
	return nil, fmt.Errorf("wait to change the network: %w", context.Cause(ctx))
}

// change edits the state, has it enforced, and shows it to those who read only when that succeeded.
// Once it has begun it goes on to its end whatever happens to ctx: nobody would know of half a
// change.
func (k *keeper) change(ctx context.Context, edit func(*plan.State) error) error {
	end, err := k.beginWrite(ctx)
	if err != nil {
		return err
	}
	defer end()
	before := k.now.Load().State
	next := before
	next.Endpoints = slices.Clone(before.Endpoints)
	if err := edit(&next); err != nil {
		return err
	}
	slices.SortFunc(next.Endpoints, func(a, b network.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	if next.HostAddresses, next.HostAddresses6, err = hostAddresses(); err != nil {
		return err
	}
	next.Outside6 = next.IPv6 && k.uplink.State6() == network.UplinkUp
	if err := k.enforce(before, next); err != nil {
		return err
	}
	k.now.Store(newSnapshot(next))
	// The change is made, so an error from here on is no reason to call it failed: on a full disk
	// VMs must still end, and ways must still close. Until the note is written, a keeper that finds
	// neither its predecessor nor the holder would find the endpoints of the one before; the daemon
	// tells it of what each VM may reach in any case.
	err = k.remember(next.Endpoints)
	if err != nil {
		k.log.ErrorContext(ctx, "the endpoints are not noted", "err", err)
	}
	k.unsettled.Store(err != nil)
	return nil
}

// enforce is the one way down for what VMs may reach: the whole state goes to the rules first, then
// to what looks again behind them. When one of them fails, all that were told are told the state
// before.
func (k *keeper) enforce(before, next plan.State) error {
	for i, step := range k.enforcers {
		err := step(next)
		if err == nil {
			continue
		}
		var left []error
		for _, told := range slices.Backward(k.enforcers[:i+1]) {
			left = append(left, told(before))
		}
		if back := errors.Join(left...); back != nil {
			k.unsettled.Store(true)
			return errors.Join(err, fmt.Errorf("put back: %w", back))
		}
		return err
	}
	return nil
}

// settle tries again, until ctx ends, what a change has left undone: rules that could not be put
// back, such as those of a holder that stood still, which may make them yet, and a note that could
// not be written.
func (k *keeper) settle(ctx context.Context) error {
	tick := time.NewTicker(settleInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !k.unsettled.Load() {
			continue
		}
		if err := k.change(ctx, unchanged); err != nil {
			k.log.WarnContext(ctx, "the network is not as it should be", "err", err)
		}
	}
}

// unchanged has the same endpoints enforced, with what the host is like by now.
func unchanged(*plan.State) error { return nil }

// attach adds an endpoint, or changes the policy and the name of the one with its id.
func attach(p network.Endpoint) func(*plan.State) error {
	return func(s *plan.State) error {
		if err := p.Check(s.Subnet); err != nil {
			return err
		}
		at := -1
		for i, other := range s.Endpoints {
			switch {
			case other.ID == p.ID && (other.Address != p.Address || other.MAC != p.MAC):
				return fmt.Errorf("endpoint %s has address %s and MAC %s already; detach it first", p.ID, other.Address,
					other.MAC)
			case other.ID == p.ID:
				at = i
			case other.Address == p.Address, other.MAC == p.MAC, other.Name == p.Name:
				return fmt.Errorf("endpoint %s has the address, the MAC or the name already", other.ID)
			}
		}
		if at >= 0 {
			s.Endpoints[at] = p
			return nil
		}
		if len(s.Endpoints) >= maxEndpoints {
			return fmt.Errorf("the network has %d machines, which is the limit", maxEndpoints)
		}
		s.Endpoints = append(s.Endpoints, p)
		return nil
	}
}

// detach removes an endpoint; a missing one is no error.
func detach(id string) func(*plan.State) error {
	return func(s *plan.State) error {
		s.Endpoints = slices.DeleteFunc(s.Endpoints, func(p network.Endpoint) bool { return p.ID == id })
		return nil
	}
}

// setPolicy puts a policy, whole, in place of an endpoint's.
func setPolicy(id string, policy network.Policy) func(*plan.State) error {
	return func(s *plan.State) error {
		if err := network.CheckHostServices(policy.HostServices); err != nil {
			return err
		}
		i := slices.IndexFunc(s.Endpoints, func(p network.Endpoint) bool { return p.ID == id })
		if i < 0 {
			return fmt.Errorf("set policy of %.140q: %w", id, network.ErrNotFound)
		}
		s.Endpoints[i].Policy = policy
		return nil
	}
}
