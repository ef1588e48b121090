package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"banger/api"
)

// VM is the record of one VM: what was asked for and what was taken for it.
type VM struct {
	ID            string // 12 hex digits
	Name          string
	ImageID       string
	KernelID      string
	CPUs          int
	MemoryMiB     int
	DiskMiB       int
	Env           []string
	AutoRemove    bool
	Leased        bool   // removed with the client that holds its lease
	Builds        string // name of the image that it was made to build; empty for others
	Network       api.Network
	Address       netip.Addr // leased for the VM's life; invalid without a network
	NAT           bool       // reaches the world beyond the other VMs
	Isolated      bool       // reaches no other VM
	Forwards      []api.Forward
	HostServices  []int  // TCP ports of the host's loopback that it reaches at the gateway's address
	MTU           int    // bytes, of its last start's network; 0 before the first
	HostKey       string // the ssh host key it is known by; empty before the first contact
	State         api.State
	Reason        string
	VMMBinary     string // what runs, or is about to run it; empty when stopped
	VMMPID        int    // 0 until the process exists
	VMMStartTicks uint64 // start time of that process in clock ticks since boot (proc(5), stat field 22)
	CreatedAt     time.Time
	StartedAt     time.Time
	StoppedAt     time.Time

	ImageName  string // only read: a name of the image, or its id when it has none
	KernelName string // likewise
}

var vmEntity = entity{"machine", api.OpMachines.Remedy(api.None{}, "see what there is")}

// columnsOf are those of a VM's record, which they point into.
func columnsOf(v *VM) columns {
	return columns{
		{name: "id", at: &v.ID},
		{name: "name", at: &v.Name},
		{name: "image_id", at: &v.ImageID},
		{name: "kernel_id", at: &v.KernelID},
		{name: "cpus", at: &v.CPUs},
		{name: "memory_mib", at: &v.MemoryMiB},
		{name: "disk_mib", at: &v.DiskMiB},
		{name: "env", at: asJSON{&v.Env}},
		{name: "auto_remove", at: &v.AutoRemove},
		{name: "leased", at: &v.Leased},
		{name: "builds", at: &v.Builds},
		{name: "network", at: &v.Network},
		{name: "address", at: address{&v.Address}},
		{name: "nat", at: &v.NAT},
		{name: "isolated", at: &v.Isolated},
		{name: "host_services", at: asJSON{&v.HostServices}},
		{name: "mtu", at: &v.MTU},
		{name: "host_key", at: &v.HostKey},
		{name: "state", at: &v.State},
		{name: "reason", at: &v.Reason},
		{name: "vmm_binary", at: &v.VMMBinary},
		{name: "vmm_pid", at: &v.VMMPID},
		{name: "vmm_start_ticks", at: &v.VMMStartTicks},
		{name: "created_at", at: millis{&v.CreatedAt}},
		{name: "started_at", at: millis{&v.StartedAt}},
		{name: "stopped_at", at: millis{&v.StoppedAt}},
		{expr: `COALESCE((SELECT n.name FROM image_names n WHERE n.image_id = vms.image_id
			ORDER BY n.rowid LIMIT 1), image_id)`, at: &v.ImageName},
		{expr: `COALESCE((SELECT n.name FROM kernel_names n WHERE n.kernel_id = vms.kernel_id
			ORDER BY n.rowid LIMIT 1), kernel_id)`, at: &v.KernelName},
		// Most have no forward, and ls reads ten thousand.
		{expr: `(SELECT NULLIF(json_group_array(json_object(
				'protocol', protocol, 'host', host, 'host_port', host_port, 'guest_port', guest_port)), '[]')
			FROM forwards WHERE vm_id = vms.id)`, at: asJSON{&v.Forwards}},
	}
}

// selectVMs reads VMs; a condition may follow.
var selectVMs = columnsOf(new(VM)).selectFrom("vms")

func scanVM(row scanner) (v VM, err error) {
	err = row.Scan(columnsOf(&v).targets()...)
	return v, err
}

// InsertVM records a new VM. A name that is taken is a conflict. For a VM with a network, lease
// chooses its address from those that no VM has: both happen in one transaction, so no address is
// ever given twice.
func (s *Store) InsertVM(ctx context.Context, v *VM, lease func(taken map[netip.Addr]bool) (netip.Addr, error)) error {
	err := s.transaction(ctx, func(tx *sql.Tx) (err error) {
		if v.Network == api.NetworkUser {
			if v.Address, err = leaseAddress(ctx, tx, lease); err != nil {
				return err
			}
		}
		if err := insertVM(ctx, tx, v); err != nil {
			return err
		}
		for _, f := range v.Forwards {
			if err := insertForward(ctx, tx, v.ID, f); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, errForwardTaken):
		return err
	case isConstraint(err, uniqueViolation):
		return api.Errorf(api.CodeConflict, "a machine named %q exists already", v.Name).
			WithRemedy(api.OpRemoveMachine.Remedy(api.RemoveMachine{Machine: v.Name}, "choose another name, or remove it"))
	case isConstraint(err, foreignKeyViolation):
		return api.Errorf(api.CodeConflict, "the image or kernel of machine %q was removed meanwhile", v.Name).WithHint("try again")
	case err != nil:
		return fmt.Errorf("record machine %s: %w", v.Name, err)
	}
	return nil
}

func insertVM(ctx context.Context, tx *sql.Tx, v *VM) error {
	statement, args := columnsOf(v).insertInto("vms")
	_, err := tx.ExecContext(ctx, statement, args...)
	return err
}

func leaseAddress(ctx context.Context, tx *sql.Tx, lease func(map[netip.Addr]bool) (netip.Addr, error)) (netip.Addr, error) {
	rows, err := tx.QueryContext(ctx, `SELECT address FROM vms WHERE address <> ''`)
	if err != nil {
		return netip.Addr{}, err
	}
	defer rows.Close()
	taken := map[netip.Addr]bool{}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return netip.Addr{}, err
		}
		address, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Addr{}, err
		}
		taken[address] = true
	}
	if err := rows.Err(); err != nil {
		return netip.Addr{}, err
	}
	return lease(taken)
}

// VM returns the VM of that name, or whose id has that prefix.
func (s *Store) VM(ctx context.Context, ref string) (VM, error) {
	return resolve(ctx, s.db, selectVMs, `name = ?1`, vmEntity, ref, scanVM)
}

// VMs returns all VMs, the oldest first.
func (s *Store) VMs(ctx context.Context) ([]VM, error) {
	return query(ctx, s.db, scanVM, selectVMs+` ORDER BY created_at, id`)
}

// CountVMs returns how many VMs there are, and how many of them are running.
func (s *Store) CountVMs(ctx context.Context) (all, running int, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT COUNT(*), COUNT(*) FILTER (WHERE state = ?) FROM vms`, api.StateRunning).Scan(&all, &running)
	if err != nil {
		return 0, 0, fmt.Errorf("count machines: %w", err)
	}
	return all, running, nil
}

// SetState records the VM's state and why it has it.
func (s *Store) SetState(ctx context.Context, id string, state api.State, reason string) error {
	return s.updateVM(ctx, id, `state = ?, reason = ?`, state, reason)
}

// SetStarting records that binary is about to be started for the VM: from here on a VMM may exist.
func (s *Store) SetStarting(ctx context.Context, id, binary string) error {
	return s.updateVM(ctx, id, `state = ?, reason = '', vmm_binary = ?, vmm_pid = 0, vmm_start_ticks = 0`, api.StateStarting, binary)
}

// SetVMM records the VMM's process.
func (s *Store) SetVMM(ctx context.Context, id string, pid int, startTicks uint64) error {
	return s.updateVM(ctx, id, `vmm_pid = ?, vmm_start_ticks = ?`, pid, startTicks)
}

// SetRunning records that the VM's agent answers.
func (s *Store) SetRunning(ctx context.Context, id string, at time.Time) error {
	return s.updateVM(ctx, id, `state = ?, reason = '', started_at = ?`, api.StateRunning, toMillis(at))
}

// SetStopped records that no VMM is left, and why.
func (s *Store) SetStopped(ctx context.Context, id, reason string, at time.Time) error {
	return s.updateVM(ctx, id, `state = ?, reason = ?, vmm_binary = '', vmm_pid = 0, vmm_start_ticks = 0, stopped_at = ?`,
		api.StateStopped, reason, toMillis(at))
}

// SetPolicy records what the VM may reach: the world beyond the other VMs, and which of the host's
// ports.
func (s *Store) SetPolicy(ctx context.Context, id string, nat bool, hostServices []int) error {
	services, err := json.Marshal(hostServices)
	if err != nil {
		return err
	}
	return s.updateVM(ctx, id, `nat = ?, host_services = ?`, nat, string(services))
}

// SetHostKey records the ssh host key that the VM is known by.
func (s *Store) SetHostKey(ctx context.Context, id, key string) error {
	return s.updateVM(ctx, id, `host_key = ?`, key)
}

// SetMTU records the MTU of the network that the VM has joined.
func (s *Store) SetMTU(ctx context.Context, id string, mtu int) error {
	return s.updateVM(ctx, id, `mtu = ?`, mtu)
}

// SetLeased records whether a client holds the VM's lease.
func (s *Store) SetLeased(ctx context.Context, id string, leased bool) error {
	return s.updateVM(ctx, id, `leased = ?`, leased)
}

// DeleteVM deletes the record; there being none is no error.
func (s *Store) DeleteVM(ctx context.Context, id string) error {
	if _, err := s.exec(ctx, `DELETE FROM vms WHERE id = ?`, id); err != nil {
		return fmt.Errorf("delete record of machine %s: %w", id, err)
	}
	return nil
}

func (s *Store) updateVM(ctx context.Context, id, set string, args ...any) error {
	result, err := s.exec(ctx, `UPDATE vms SET `+set+` WHERE id = ?`, append(args, id)...)
	if err != nil {
		return fmt.Errorf("update record of machine %s: %w", id, err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		return notFound(vmEntity, id)
	}
	return nil
}
