package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"banger/api"
	"banger/internal/network"
	"banger/internal/network/uplink"
	"banger/internal/store"
)

// joinNetwork makes the VM's tap and its rules, before there is a VMM to use them. The first VM starts the network.
func (m *machine) joinNetwork(ctx context.Context) error {
	if m.rec.Network == api.NetworkNone {
		return nil
	}
	m.networkTurn.Lock()
	defer m.networkTurn.Unlock()
	if err := m.Network.Ensure(ctx); err != nil {
		return err
	}
	tap, err := m.Network.Attach(ctx, port(m.rec))
	if err != nil {
		return err
	}
	if err := m.Store.SetMTU(ctx, m.rec.ID, tap.MTU); err != nil {
		return err
	}
	status, err := m.Network.Status(ctx)
	m.tap, m.enter = tap, func(argv []string) []string { return m.Network.Enter(status.HolderPID, argv) }
	return err
}

// leaveNetwork runs after the VMM's end, which used the tap. The last VM ends the network: nothing of it is left on the
// host.
func (m *machine) leaveNetwork(ctx context.Context) error {
	if m.rec.Network == api.NetworkNone {
		return nil
	}
	m.networkTurn.Lock()
	defer m.networkTurn.Unlock()
	if running, err := m.Network.Running(); err != nil || !running {
		return err
	}
	if err := m.Network.Detach(ctx, m.rec.ID); err != nil && !errors.Is(err, network.ErrNotFound) {
		return err
	}
	return m.stopIdleNetwork(ctx)
}

// stopIdleNetwork ends a network that has no VM. m.networkTurn must be held.
func (m *Manager) stopIdleNetwork(ctx context.Context) error {
	status, err := m.Network.Status(ctx)
	if err != nil || len(status.Ports) > 0 {
		return err
	}
	return m.Network.Stop(ctx)
}

func port(v store.VM) network.Port {
	return network.Port{
		ID: v.ID, Name: v.Name, MAC: network.MAC(v.Address), Address: v.Address, Policy: network.Policy{NAT: v.NAT, Isolated: v.Isolated, HostServices: v.HostServices},
	}
}

// SetNAT opens or closes a VM's way to the world beyond the other VMs, at once when it runs.
func (m *Manager) SetNAT(ctx context.Context, ref string, on bool) (api.VM, error) {
	return m.changePolicy(ctx, ref, "nat", func(ctx context.Context, rec *store.VM) error {
		rec.NAT = on
		return m.Store.SetNAT(ctx, rec.ID, on)
	})
}

// SetHostServices gives a VM the host's services that it may reach, in place of those it had, at once when it runs.
func (m *Manager) SetHostServices(ctx context.Context, ref string, ports []int) (api.VM, error) {
	if err := checkHostServices(ports); err != nil {
		return api.VM{}, err
	}
	return m.changePolicy(ctx, ref, "host services", func(ctx context.Context, rec *store.VM) error {
		rec.HostServices = ports
		return m.Store.SetHostServices(ctx, rec.ID, ports)
	})
}

func checkHostServices(ports []int) error {
	if err := network.CheckHostServices(ports); err != nil {
		return api.Errorf(api.CodeInvalid, "%w", err).WithHint("name TCP ports that listen on this host's loopback")
	}
	return nil
}

// changePolicy records a change of what a VM may reach, and has the network make it so if the VM runs.
func (m *Manager) changePolicy(ctx context.Context, ref, what string, change func(context.Context, *store.VM) error) (api.VM, error) {
	rec, err := m.Store.VM(ctx, ref)
	if err != nil {
		return api.VM{}, err
	}
	if rec.Network == api.NetworkNone {
		return api.VM{}, api.Errorf(api.CodeConflict, "VM %s has no network", rec.Name)
	}
	err = m.operate(ctx, rec.ID, what, 0, func(ctx context.Context) error {
		if rec, err = m.Store.VM(ctx, rec.ID); err != nil { // as the operation before this one left it
			return err
		}
		if err := change(ctx, &rec); err != nil {
			return err
		}
		if m.liveOf(rec.ID) == nil {
			return nil // the next start tells the network
		}
		m.networkTurn.Lock()
		defer m.networkTurn.Unlock()
		if err := m.Network.Ensure(ctx); err != nil {
			return err
		}
		p := port(rec)
		err := m.Network.SetPolicy(ctx, p.ID, p.Policy)
		if errors.Is(err, network.ErrNotFound) { // a network that began anew
			_, err = m.Network.Attach(ctx, p)
		}
		return err
	})
	if err != nil {
		return api.VM{}, err
	}
	return m.VM(ctx, rec.ID)
}

// CheckNetwork looks at the VMs' network for the doctor. It brings nothing up.
func (m *Manager) CheckNetwork(ctx context.Context) api.Check {
	check := api.Check{Name: "network", Status: api.CheckOK}
	if err := m.describeNetwork(ctx, &check); err != nil {
		check.Status, check.Found = api.CheckFailed, err.Error()
	}
	return check
}

func (m *Manager) describeNetwork(ctx context.Context, check *api.Check) error {
	running, err := m.Network.Running()
	if err != nil {
		return err
	}
	if !running {
		check.Found = fmt.Sprintf("%s, comes up with the first machine", m.Config.Subnet)
		return uplink.CheckConflict(m.Network.Dir(), m.Config.Subnet, m.Network.Rootless())
	}
	status, err := m.Network.Status(ctx)
	if err != nil {
		return err
	}
	check.Found = fmt.Sprintf("%s, machines: %d, to the world: %s", status.Subnet, len(status.Ports), status.Uplink)
	if status.Uplink != network.UplinkUp {
		check.Status = api.CheckWarning
	}
	if status.Rootless && !status.Relay {
		check.Status = api.CheckWarning
		check.Found += "; by pasta alone, which is slow to send"
		check.Repair = "sudo modprobe nft_tproxy   # then stop all machines once"
	}
	if status.Uplink6 != network.UplinkUp {
		check.Found += "; by IPv6: " + status.Uplink6
	}
	return nil
}

// PurgeNetwork takes down all that there is of the network. It refuses while a VM uses it.
func (m *Manager) PurgeNetwork(ctx context.Context) error {
	m.networkTurn.Lock()
	defer m.networkTurn.Unlock()
	recs, err := m.Store.VMs(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, rec := range recs {
		if rec.Network != api.NetworkNone && rec.State != api.StateStopped && rec.State != api.StateCreating {
			names = append(names, rec.Name)
		}
	}
	if len(names) > 0 {
		all := strings.Join(names, " ")
		return api.Errorf(api.CodeConflict, "the network is in use by %s", strings.Join(names, ", ")).WithHint("stop them first: banger stop %s", all)
	}
	return uplink.Purge(ctx, m.Network)
}

// networkInterval is how often the daemon looks whether the network still has a keeper.
const networkInterval = 2 * time.Second

// keepNetwork replaces a keeper that died. VMs do not lose their taps with it, only names and changes of policy.
func (m *Manager) keepNetwork() {
	tick := time.NewTicker(networkInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.ctx.Done():
			return
		}
		if running, err := m.Network.Running(); err != nil || running || !m.Network.Exists() {
			continue
		}
		recs, err := m.Store.VMs(m.ctx)
		if err == nil {
			err = m.recoverNetwork(m.ctx, recs)
		}
		if err != nil && m.ctx.Err() == nil {
			m.Log.Error("replace the network's keeper", "error", err)
		}
	}
}

// recoverNetwork makes the network what the VMs that run want it to be: it may have died while no daemon was there, or may
// hold ports of VMs that have ended.
func (m *Manager) recoverNetwork(ctx context.Context, recs []store.VM) error {
	wanted := map[string]network.Port{}
	for _, rec := range recs {
		if rec.Network != api.NetworkNone && m.liveOf(rec.ID) != nil {
			wanted[rec.ID] = port(rec)
		}
	}
	if !m.Network.Exists() && len(wanted) == 0 {
		return nil
	}
	m.networkTurn.Lock()
	defer m.networkTurn.Unlock()
	if err := m.Network.Ensure(ctx); err != nil {
		return err
	}
	status, err := m.Network.Status(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range status.Ports {
		if _, ok := wanted[p.ID]; !ok {
			errs = append(errs, m.Network.Detach(ctx, p.ID))
		}
	}
	for id, p := range wanted {
		if _, err := m.Network.Attach(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("VM %s: %w", id, err))
		}
	}
	return errors.Join(append(errs, m.stopIdleNetwork(ctx))...)
}
