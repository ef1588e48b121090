package vm

import (
	"context"
	"fmt"
	"strings"

	"banger/api"
	"banger/internal/network"
	"banger/internal/network/uplink"
)

// CheckNetwork looks at the VMs' network for the doctor. It brings nothing up.
func (m *Manager) CheckNetwork(ctx context.Context) api.Check {
	check := api.Check{Name: "network", Status: api.CheckOK}
	if err := m.describeNetwork(ctx, &check); err != nil {
		check.Status, check.Detail = api.CheckFailed, err.Error()
	}
	return check
}

func (m *Manager) describeNetwork(ctx context.Context, check *api.Check) error {
	running, err := m.lan.client.Running()
	if err != nil {
		return err
	}
	if !running {
		check.Detail = fmt.Sprintf("%s, comes up with the first machine", m.config.Subnet)
		return uplink.CheckConflict(m.lan.client.Dir(), m.config.Subnet, m.lan.client.Rootless())
	}
	status, err := m.lan.client.Status(ctx)
	if err != nil {
		return err
	}
	check.Detail = fmt.Sprintf("%s, machines: %d, to the world: %s", status.Subnet, len(status.Endpoints), status.Uplink)
	if status.Uplink != network.UplinkUp {
		check.Status = api.CheckWarning
	}
	if status.Rootless && !status.Relay {
		check.Status = api.CheckWarning
		check.Detail += "; by pasta alone, which is slow to send"
		check.Repair = "sudo modprobe nft_tproxy   # then stop all machines once"
	}
	if status.Uplink6 != network.UplinkUp {
		check.Detail += "; by IPv6: " + status.Uplink6
	}
	return nil
}

// PurgeNetwork takes down all that there is of the network. It refuses while a VM uses it.
func (m *Manager) PurgeNetwork(ctx context.Context) error {
	return m.lan.purge(ctx, m.refuseNetworkInUse)
}

func (m *Manager) refuseNetworkInUse(ctx context.Context) error {
	recs, err := m.store.VMs(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, rec := range recs {
		if rec.Network != api.NetworkNone && rec.State != api.StateStopped && rec.State != api.StateCreating {
			names = append(names, rec.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	inUse := api.Errorf(api.CodeConflict, "the network is in use by %s", strings.Join(names, ", "))
	for _, name := range names {
		inUse = inUse.WithRemedy(api.OpStopMachine.Remedy(api.StopMachine{Machine: name}, "stop it first"))
	}
	return inUse
}
