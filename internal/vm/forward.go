package vm

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/forward"
	"banger/internal/guest"
)

// checkForward refuses a forward that cannot be.
func checkForward(f api.Forward) error {
	switch {
	case f.Protocol != api.TCP && f.Protocol != api.UDP:
		return api.Errorf(api.CodeInvalid, "a forward of %q", f.Protocol).WithHint("one of %s, %s", api.TCP, api.UDP)
	case f.Host.Zone() != "":
		return api.Errorf(api.CodeInvalid, "a forward from %s: an address without a zone is needed", f.Host)
	case f.GuestPort == 0:
		return api.Errorf(api.CodeInvalid, "a forward to port 0: the machine's port is needed")
	}
	return nil
}

// completeForward checks a forward, fills in the defaults and chooses a port where 0 asks for any.
func completeForward(f *api.Forward) (err error) {
	*f = f.WithDefaults()
	f.Error = ""
	if err := checkForward(*f); err != nil || f.HostPort != 0 {
		return err
	}
	f.HostPort, err = forward.FreePort(*f)
	return err
}

// AddForward makes a port of the VM reachable at an address of the host, now if the VM runs and
// whenever it will. One that is there already is opened again if it does not work.
func (m *Manager) AddForward(ctx context.Context, ref string, f api.Forward) (api.Forward, error) {
	rec, err := m.store.VM(ctx, ref)
	if err == nil {
		err = completeForward(&f)
	}
	if err != nil {
		return api.Forward{}, err
	}
	err = m.change(ctx, rec.ID, "forward", 0, func(ctx context.Context, x *machine) error {
		known := slices.ContainsFunc(x.rec.Forwards, func(have api.Forward) bool {
			return sameHostPort(have, f) && have.GuestPort == f.GuestPort
		})
		if !known && len(x.rec.Forwards) >= maxForwards {
			return api.Errorf(api.CodeInvalid, "machine %s has %d forwards, which is the most it can have",
				x.rec.Name, maxForwards)
		}
		return m.changeForwards(ctx, x, m.addForwardFlow(x, f, known))
	})
	return f, err
}

// changeForwards performs a flow, and has what is open be what is recorded also when it can neither
// be done nor undone.
func (m *Manager) changeForwards(ctx context.Context, x *machine, f flow) error {
	clean, err := m.perform(ctx, f)
	if clean || m.vmms.of(x.rec.ID) == nil {
		return err
	}
	ctx, cancel := undoContext(ctx)
	defer cancel()
	rec, readErr := m.store.VM(ctx, x.rec.ID)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	return errors.Join(err, m.forwards.align(rec.ID, x.dir, rec.Forwards))
}

// addForwardFlow records a forward that is not known and opens it if the VM runs. The record comes
// first: it decides whose the port is.
func (m *Manager) addForwardFlow(x *machine, f api.Forward, known bool) flow {
	var steps []step
	if !known {
		recorded := false // else the record is of another forward of that port, which stays
		steps = append(steps, step{
			name: "record forward",
			do: func(ctx context.Context) error {
				err := m.store.AddForward(ctx, x.rec.ID, f)
				recorded = err == nil
				return err
			},
			undo: func(ctx context.Context) error {
				if !recorded {
					return nil
				}
				return m.store.DeleteForward(ctx, x.rec.ID, f)
			},
		})
	}
	if m.vmms.of(x.rec.ID) != nil && !m.forwards.works(x.rec.ID, f) {
		open := step{name: "open forward", do: func(context.Context) error {
			return m.forwards.publish(x.rec.ID, x.dir, f).err
		}}
		if !known { // else it is shown with why it does not work
			open.undo = func(context.Context) error { return m.forwards.withdraw(x.rec.ID, f) }
		}
		steps = append(steps, open)
	}
	return flow{name: "add forward", quiet: true, steps: steps}
}

// RemoveForward ends a forward and its connections.
func (m *Manager) RemoveForward(ctx context.Context, ref string, f api.Forward) error {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return err
	}
	f = f.WithDefaults()
	return m.change(ctx, rec.ID, "forward", 0, func(ctx context.Context, x *machine) error {
		at := slices.IndexFunc(x.rec.Forwards, func(have api.Forward) bool { return sameHostPort(have, f) })
		if at < 0 {
			return api.Errorf(api.CodeNotFound, "machine %s has no forward from %s port %s",
				x.rec.Name, f.Protocol, f.Listen()).
				WithRemedy(api.OpMachine.Remedy(api.MachineRef{Machine: x.rec.Name}, "see its forwards"))
		}
		return m.changeForwards(ctx, x, m.removeForwardFlow(x, x.rec.Forwards[at]))
	})
}

// removeForwardFlow takes a forward out of the record and closes it. When it cannot, the forward is
// as it was, but for the connections that it had.
func (m *Manager) removeForwardFlow(x *machine, f api.Forward) flow {
	worked, forgotten := m.forwards.works(x.rec.ID, f), false
	return flow{name: "remove forward", quiet: true, steps: []step{
		{
			name: "forget forward",
			do: func(ctx context.Context) error {
				err := m.store.DeleteForward(ctx, x.rec.ID, f)
				forgotten = err == nil
				return err
			},
			undo: func(ctx context.Context) error {
				if !forgotten {
					return nil
				}
				return m.store.AddForward(ctx, x.rec.ID, f)
			},
		},
		{
			name: "close forward",
			do:   func(context.Context) error { return m.forwards.withdraw(x.rec.ID, f) },
			undo: func(context.Context) error {
				if !worked || m.forwards.works(x.rec.ID, f) {
					return nil
				}
				return m.forwards.publish(x.rec.ID, x.dir, f).err
			},
		},
	}}
}

// Ports lists what listens in a running VM, and where the host reaches it.
func (m *Manager) Ports(ctx context.Context, ref string) ([]api.Port, error) {
	agent, v, err := m.Agent(ctx, ref)
	if err != nil {
		return nil, err
	}
	listening, err := agent.Ports(ctx)
	if err != nil {
		return nil, err
	}
	ports := make([]api.Port, 0, len(listening))
	for _, l := range listening {
		ports = append(ports, api.Port{
			Network: l.Network, Address: l.Address.Addr().String(), Port: l.Address.Port(), PID: l.PID, Process: l.Process,
			Reach: reach(v, l, os.Geteuid() == 0),
		})
	}
	return ports, nil
}

// reach lists where the host reaches a socket of the VM: through forwards, and at the VM's own
// address where the host has a route to it, which root's network gives.
func reach(v api.Machine, l guest.ListeningPort, routed bool) []string {
	var at []string
	for _, f := range v.Forwards {
		if f.Error == "" && f.GuestPort == l.Address.Port() && strings.HasPrefix(l.Network, string(f.Protocol)) {
			at = append(at, f.Listen())
		}
	}
	heard := l.Address.Addr().IsUnspecified() || l.Address.Addr().String() == v.Address
	if routed && heard && v.Address != "" {
		at = append(at, net.JoinHostPort(v.Address, strconv.Itoa(int(l.Address.Port()))))
	}
	return at
}
