package vm

import (
	"context"

	"banger/api"
	"banger/internal/network"
	"banger/internal/store"
)

// SetNAT opens or closes a VM's way to the world beyond the other VMs, at once when it runs.
func (m *Manager) SetNAT(ctx context.Context, ref string, on bool) (api.Machine, error) {
	return m.changePolicy(ctx, ref, "nat", func(p *network.Policy) { p.NAT = on })
}

// SetHostServices gives a VM the host's services that it may reach, in place of those it had, at
// once when it runs.
func (m *Manager) SetHostServices(ctx context.Context, ref string, ports []int) (api.Machine, error) {
	if err := checkHostServices(ports); err != nil {
		return api.Machine{}, err
	}
	return m.changePolicy(ctx, ref, "host services", func(p *network.Policy) { p.HostServices = ports })
}

func checkHostServices(ports []int) error {
	if err := network.CheckHostServices(ports); err != nil {
		return api.Errorf(api.CodeInvalid, "%w", err).WithHint("name TCP ports that listen on this host's loopback")
	}
	return nil
}

// changePolicy changes what a VM may reach. What the network does is changed first and recorded
// then, so that a record never promises what is not so; a rule that could not be recorded is put
// back. All of it is one turn of the network's: whoever makes the network what the records say
// comes before or after.
func (m *Manager) changePolicy(ctx context.Context, ref, what string, change func(*network.Policy)) (api.Machine, error) {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return api.Machine{}, err
	}
	if rec.Network == api.NetworkNone {
		return api.Machine{}, api.Errorf(api.CodeConflict, "machine %s has no network", rec.Name)
	}
	err = m.change(ctx, rec.ID, what, 0, func(ctx context.Context, x *machine) error {
		give, err := m.lan.turn.take(ctx)
		if err != nil {
			return err
		}
		defer give()
		was, next := policyOf(*x.rec), policyOf(*x.rec)
		change(&next)
		clean, err := m.perform(ctx, m.policyFlow(what, *x.rec, was, next))
		if !clean {
			m.lan.astray.Store(true)
		}
		return err
	})
	if err != nil {
		return api.Machine{}, err
	}
	return m.VM(ctx, rec.ID)
}

// policyFlow changes one VM's policy, for who has the network's turn.
func (m *Manager) policyFlow(what string, v store.VM, was, next network.Policy) flow {
	enforce := func(p network.Policy) func(context.Context) error {
		return func(ctx context.Context) error { return m.lan.enforce(ctx, v, p) }
	}
	record := func(p network.Policy) func(context.Context) error {
		return func(ctx context.Context) error { return m.store.SetPolicy(ctx, v.ID, p.NAT, p.HostServices) }
	}
	return flow{name: what, quiet: true, steps: []step{
		{name: "change rule", do: enforce(next), undo: enforce(was)},
		{name: "record policy", do: record(next), undo: record(was)},
	}}
}
