package vm

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/forward"
	"banger/internal/guest"
	"banger/internal/store"
)

// published is one forward of a VM that runs: a port of the host that is open, or why it is not.
type published struct {
	api.Forward
	open *forward.Forward // nil when err is not
	err  error
}

// sameHostPort reports whether two forwards are of one port of the host.
func sameHostPort(a, b api.Forward) bool {
	return a.Protocol == b.Protocol && a.Host == b.Host && a.HostPort == b.HostPort
}

// completeForward checks a forward, fills in the defaults and chooses a port where 0 asks for any.
func completeForward(f *api.Forward) error {
	f.Error = ""
	f.Protocol = orDefault(f.Protocol, api.TCP)
	f.Host = orDefault(f.Host, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	switch {
	case f.Protocol != api.TCP && f.Protocol != api.UDP:
		return api.Errorf(api.CodeInvalid, "a forward of %q", f.Protocol).WithHint("one of %s, %s", api.TCP, api.UDP)
	case f.Host.Zone() != "":
		return api.Errorf(api.CodeInvalid, "a forward from %s: an address without a zone is needed", f.Host)
	case f.GuestPort == 0:
		return api.Errorf(api.CodeInvalid, "a forward to port 0: the VM's port is needed")
	case f.HostPort != 0:
		return nil
	}
	open, err := forward.Listen(*f, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	f.HostPort = open.HostPort
	return open.Close()
}

// openForwards opens the host's ports before there is a VMM: one that is taken is told before anything boots.
func (m *machine) openForwards(context.Context) error {
	for _, f := range m.rec.Forwards {
		if p := m.publish(f); p.err != nil {
			return p.err
		}
	}
	return nil
}

// reopenForwards opens the host's ports of a VM that this daemon found running. One that is taken is shown with the VM.
func (m *machine) reopenForwards() {
	for _, f := range m.rec.Forwards {
		if p := m.publish(f); p.err != nil {
			m.Log.Warn("reopen a forward", "vm", m.rec.ID, "name", m.rec.Name, "forward", f.String(), "error", p.err)
		}
	}
}

// publish opens one of the VM's forwards.
func (m *machine) publish(f api.Forward) *published {
	p := &published{Forward: f}
	vsock := guest.OpenVsock(m.dir.VsockSocket(), guest.StreamPort)
	dial := func(ctx context.Context) (forward.Conn, error) {
		conn, err := guest.Connect(ctx, vsock, string(f.Protocol), f.GuestPort)
		if err != nil {
			return nil, err // not a Conn that is a nil pointer
		}
		return conn, nil
	}
	p.open, p.err = forward.Listen(f, dial, m.Log.With("vm", m.rec.ID))
	m.mu.Lock()
	defer m.mu.Unlock()
	others := slices.DeleteFunc(m.forwards[m.rec.ID], func(known *published) bool { return sameHostPort(known.Forward, f) })
	m.forwards[m.rec.ID] = append(others, p)
	return p
}

func (p *published) close() error {
	if p.open == nil {
		return nil
	}
	return p.open.Close()
}

func (m *machine) closeForwards(context.Context) error {
	m.mu.Lock()
	open := m.forwards[m.rec.ID]
	delete(m.forwards, m.rec.ID)
	m.mu.Unlock()
	var errs []error
	for _, p := range open {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// allForwards lists the forwards of all VMs that run.
func (m *Manager) allForwards() []*published {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*published
	for _, some := range m.forwards {
		all = append(all, some...)
	}
	return all
}

// stopListening gives the host's ports to another daemon. Connections that stand go on until Close.
func (m *Manager) stopListening() {
	for _, p := range m.allForwards() {
		if p.open == nil {
			continue
		}
		if err := p.open.StopListening(); err != nil {
			m.Log.Error("hand over a forward", "forward", p.String(), "error", err)
		}
	}
}

// WaitForwards returns when no connection of a forward is left; call it after Retire.
func (m *Manager) WaitForwards() {
	for _, p := range m.allForwards() {
		if p.open != nil {
			p.open.Wait()
		}
	}
}

func (m *Manager) closeAllForwards() (errs []error) {
	for _, p := range m.allForwards() {
		errs = append(errs, p.close())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.forwards)
	return errs
}

// describeForwards adds to the record what does not work now.
func (m *Manager) describeForwards(rec store.VM) []api.Forward {
	if len(rec.Forwards) == 0 {
		return nil
	}
	shown := slices.Clone(rec.Forwards)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range shown {
		for _, p := range m.forwards[rec.ID] {
			if p.err != nil && sameHostPort(p.Forward, shown[i]) {
				shown[i].Error = p.err.Error()
			}
		}
	}
	return shown
}

// AddForward makes a port of the VM reachable at an address of the host, now if the VM runs and whenever it will. One that
// is there already is opened again if it does not work.
func (m *Manager) AddForward(ctx context.Context, ref string, f api.Forward) (api.Forward, error) {
	rec, err := m.Store.VM(ctx, ref)
	if err == nil {
		err = completeForward(&f)
	}
	if err != nil {
		return api.Forward{}, err
	}
	err = m.operate(ctx, rec.ID, "forward", 0, func(ctx context.Context) error {
		if rec, err = m.Store.VM(ctx, rec.ID); err != nil {
			return err
		}
		known := slices.ContainsFunc(rec.Forwards, func(have api.Forward) bool { return sameHostPort(have, f) && have.GuestPort == f.GuestPort })
		if !known {
			if len(rec.Forwards) >= maxForwards {
				return api.Errorf(api.CodeInvalid, "VM %s has %d forwards, which is the most it can have", rec.Name, maxForwards)
			}
			if err := m.Store.AddForward(ctx, rec.ID, f); err != nil {
				return err
			}
		}
		if m.liveOf(rec.ID) == nil || m.works(rec.ID, f) {
			return nil
		}
		p := m.machine(rec).publish(f)
		if p.err != nil && !known {
			return errors.Join(p.err, m.forgetForward(ctx, rec.ID, f))
		}
		return p.err
	})
	return f, err
}

// works reports whether the forward is open.
func (m *Manager) works(id string, f api.Forward) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.forwards[id], func(p *published) bool { return sameHostPort(p.Forward, f) && p.err == nil })
}

// RemoveForward ends a forward and its connections.
func (m *Manager) RemoveForward(ctx context.Context, ref string, f api.Forward) error {
	rec, err := m.Store.VM(ctx, ref)
	if err != nil {
		return err
	}
	f.Protocol, f.Host = orDefault(f.Protocol, api.TCP), orDefault(f.Host, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	if !slices.ContainsFunc(rec.Forwards, func(have api.Forward) bool { return sameHostPort(have, f) }) {
		return api.Errorf(api.CodeNotFound, "VM %s has no forward from %s port %s", rec.Name, f.Protocol, f.Listen()).
			WithHint("see: banger forward ls %s", rec.Name)
	}
	return m.operate(ctx, rec.ID, "forward", 0, func(ctx context.Context) error { return m.forgetForward(ctx, rec.ID, f) })
}

func (m *Manager) forgetForward(ctx context.Context, id string, f api.Forward) error {
	errs := []error{m.Store.DeleteForward(ctx, id, f)}
	var closing []*published
	m.mu.Lock()
	m.forwards[id] = slices.DeleteFunc(m.forwards[id], func(p *published) bool {
		same := sameHostPort(p.Forward, f)
		if same {
			closing = append(closing, p)
		}
		return same
	})
	if len(m.forwards[id]) == 0 {
		delete(m.forwards, id)
	}
	m.mu.Unlock()
	for _, p := range closing {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
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
		p := api.Port{Network: l.Network, Address: l.Address.Addr().String(), Port: l.Address.Port(), PID: l.PID, Process: l.Process}
		p.Reach = reach(v, l, os.Geteuid() == 0)
		ports = append(ports, p)
	}
	return ports, nil
}

// reach lists where the host reaches a socket of the VM: through forwards, and at the VM's own address where the host has
// a route to it, which root's network gives.
func reach(v api.VM, l guest.ListeningPort, routed bool) []string {
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
