package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"banger/internal/network"
	"banger/internal/network/uplink"
	"banger/internal/store"
)

// lan is the machines' network as this daemon sees it: who has a port on it, and by which policy.
// The turn is held for every change, so that the network's end does not meet a machine that joins,
// and so that what is read of the records stays true until the network is like that.
type lan struct {
	client *network.Client
	store  *store.Store
	log    *slog.Logger

	turn   turn
	joined map[string]bool // by VM id: whose port is wanted, from before it is made; for who has the turn
	astray atomic.Bool     // the network may differ from what is recorded: reconcile it
}

func newLAN(client *network.Client, s *store.Store, log *slog.Logger) *lan {
	return &lan{client: client, store: s, log: log, turn: newTurn(), joined: map[string]bool{}}
}

// join makes a machine's port, before there is a VMM to use it. The first machine starts the
// network. What runs the VMM where its tap is comes with the tap.
func (l *lan) join(ctx context.Context, v store.VM) (network.Tap, func(argv []string) []string, error) {
	give, err := l.turn.take(ctx)
	if err != nil {
		return network.Tap{}, nil, err
	}
	defer give()
	l.joined[v.ID] = true
	if err := l.client.Ensure(ctx); err != nil {
		return network.Tap{}, nil, err
	}
	tap, err := l.client.Attach(ctx, port(v))
	if err != nil {
		return tap, nil, err
	}
	if err := l.store.SetMTU(ctx, v.ID, tap.MTU); err != nil {
		return tap, nil, err
	}
	status, err := l.client.Status(ctx)
	return tap, func(argv []string) []string { return l.client.Enter(status.HolderPID, argv) }, err
}

// adopt notes that a machine which another daemon started has a port.
func (l *lan) adopt(ctx context.Context, id string) error {
	give, err := l.turn.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	l.joined[id] = true
	return nil
}

// leave deletes a machine's port, after the VMM's end, which used its tap. The last machine ends
// the network: nothing of it is left on the host. Idempotent.
func (l *lan) leave(ctx context.Context, id string) error {
	give, err := l.turn.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	return l.drop(ctx, id)
}

// drop is leave for who has the turn.
func (l *lan) drop(ctx context.Context, id string) error {
	delete(l.joined, id)
	running, err := l.client.Running()
	if err == nil && running {
		err = l.client.Detach(ctx, id)
		if err == nil || errors.Is(err, network.ErrNotFound) {
			err = l.endIdle(ctx)
		}
	}
	if err != nil {
		l.astray.Store(true)
	}
	return err
}

// endIdle ends a network that has no machine, for who has the turn.
func (l *lan) endIdle(ctx context.Context) error {
	status, err := l.client.Status(ctx)
	if err != nil || len(status.Endpoints) > 0 {
		return err
	}
	return l.client.Stop(ctx)
}

// enforce gives a joined machine a policy, for who has the turn. Of a machine without a port the
// network is told at its start.
func (l *lan) enforce(ctx context.Context, v store.VM, policy network.Policy) error {
	if !l.joined[v.ID] {
		return nil
	}
	if err := l.client.Ensure(ctx); err != nil {
		return err
	}
	p := port(v)
	p.Policy = policy
	err := l.client.SetPolicy(ctx, p.ID, p.Policy)
	if errors.Is(err, network.ErrNotFound) { // a network that began anew
		_, err = l.client.Attach(ctx, p)
	}
	return err
}

// purge takes down all that there is of the network. It refuses while a machine uses it.
func (l *lan) purge(ctx context.Context, inUse func(context.Context) error) error {
	give, err := l.turn.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	if err := inUse(ctx); err != nil {
		return err
	}
	return uplink.Purge(ctx, l.client)
}

// reconcile makes the network what the machines that are on it want it to be: it may have died, may
// hold ports of machines that have ended, or may have missed a change of policy.
func (l *lan) reconcile(ctx context.Context) error {
	give, err := l.turn.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	if !l.client.Exists() && len(l.joined) == 0 {
		return nil
	}
	l.astray.Store(false)
	if err := l.align(ctx); err != nil {
		l.astray.Store(true)
		return err
	}
	return nil
}

// align does the work of reconcile. The turn is held, so a record read here says what the network
// must do: who changes a policy or a port meanwhile waits.
func (l *lan) align(ctx context.Context) error {
	recs, err := l.store.VMs(ctx)
	if err != nil {
		return err
	}
	if err := l.client.Ensure(ctx); err != nil {
		return err
	}
	status, err := l.client.Status(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range status.Endpoints {
		if !l.joined[p.ID] {
			errs = append(errs, l.client.Detach(ctx, p.ID))
		}
	}
	for _, rec := range recs {
		if !l.joined[rec.ID] {
			continue
		}
		if _, err := l.client.Attach(ctx, port(rec)); err != nil {
			errs = append(errs, fmt.Errorf("machine %s: %w", rec.ID, err))
		}
	}
	return errors.Join(append(errs, l.endIdle(ctx))...)
}

// lanInterval is how often the daemon looks whether the network still has a keeper.
const lanInterval = 2 * time.Second

// keep replaces a keeper that died, and puts right what could not be done at once, until ctx ends.
// Machines do not lose their taps with a keeper, only names and changes of policy.
func (l *lan) keep(ctx context.Context) {
	tick := time.NewTicker(lanInterval)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if running, err := l.client.Running(); !l.astray.Load() && (err != nil || running || !l.client.Exists()) {
			said = ""
			continue
		}
		err := l.reconcile(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said { // not the same every two seconds
			said = err.Error()
			l.log.Error("reconcile the network", "error", err)
		}
	}
}

func port(v store.VM) network.Endpoint {
	return network.Endpoint{ID: v.ID, Name: v.Name, MAC: network.MAC(v.Address), Address: v.Address, Policy: policyOf(v)}
}

func policyOf(v store.VM) network.Policy {
	return network.Policy{NAT: v.NAT, Isolated: v.Isolated, HostServices: v.HostServices}
}
