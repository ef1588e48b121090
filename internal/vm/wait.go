package vm

import (
	"context"
	"fmt"
	"strings"
	"time"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/store"
)

// stateChanged wakes those who wait for a state.
func (m *Manager) stateChanged() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Manager) nextChange() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Wait returns when the VM meets the condition, or ctx ends. A VM that is gone counts as stopped.
func (m *Manager) Wait(ctx context.Context, ref string, condition api.WaitFor) (api.Machine, error) {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return api.Machine{}, err
	}
	want := api.StateRunning
	port, isPort := condition.Port()
	switch {
	case condition == api.WaitStopped:
		want = api.StateStopped
	case condition == api.WaitRunning, condition == api.WaitBooted, isPort:
	default:
		return api.Machine{}, api.Errorf(api.CodeInvalid, "cannot wait for %q", condition).
			WithHint("one of %s, %s, %s, port:N", api.WaitRunning, api.WaitBooted, api.WaitStopped)
	}
	rec, err = m.waitState(ctx, rec, want)
	if err != nil || condition != api.WaitBooted && !isPort {
		return m.describe(rec), err
	}
	agent, v, err := m.Agent(ctx, rec.ID)
	if err != nil {
		return v, err
	}
	if isPort {
		return v, waitListening(ctx, agent, port)
	}
	if _, err := agent.WaitBooted(ctx); err != nil {
		return v, fmt.Errorf("wait for the boot of %s: %w", rec.Name, err)
	}
	return v, nil
}

// listenInterval is how often a guest is asked what listens; it has no way to tell by itself.
const listenInterval = 250 * time.Millisecond

// waitListening waits until something in the guest listens on a TCP port, or the guest is gone.
func waitListening(ctx context.Context, agent *guest.Client, port int) error {
	tick := time.NewTicker(listenInterval)
	defer tick.Stop()
	for {
		ports, err := agent.Ports(ctx)
		if err != nil {
			return fmt.Errorf("wait for port %d: %w", port, err)
		}
		for _, p := range ports {
			if strings.HasPrefix(p.Network, "tcp") && int(p.Address.Port()) == port {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ErrHandedOver ends a wait that this daemon can not answer any more: ask the next one.
var ErrHandedOver = api.Errorf(api.CodeReplaced, "the daemon was replaced meanwhile").WithHint("ask again")

// waitState waits for a state. Waiting for a VM to run ends with an error when it is stopped and
// nothing starts it.
func (m *Manager) waitState(ctx context.Context, rec store.VM, want api.State) (store.VM, error) {
	for {
		next := m.nextChange() // taken before the look, so that no change is missed
		now, err := m.store.VM(ctx, rec.ID)
		switch {
		case want == api.StateStopped && api.CodeOf(err) == api.CodeNotFound:
			rec.State = api.StateStopped
			return rec, nil
		case err != nil:
			return rec, err
		case now.State == want:
			return now, nil
		case want == api.StateRunning && now.State != api.StateStarting && now.State != api.StateCreating:
			return now, notRunning(now)
		}
		select {
		case <-next:
		case <-m.ctx.Done(): // another daemon changes the states now
			return now, ErrHandedOver
		case <-ctx.Done():
			return now, context.Cause(ctx)
		}
	}
}
