package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"banger/api"
	"banger/internal/firecracker"
	"banger/internal/store"
)

// Recover compares every record with what is there, as a daemon must when it starts: it adopts the
// VMs that run, records the end of those that do not, and finishes or undoes what another daemon
// had begun. Trouble with one VM is logged and does not keep the others away. It waits for no
// guest.
func (m *Manager) Recover(ctx context.Context) error {
	recs, err := m.store.VMs(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, rec := range recs {
		known[rec.ID] = true
		if err := m.change(ctx, rec.ID, "recover", 0, m.recoverVM); err != nil {
			m.log.Error("recover a machine", "vm", rec.ID, "name", rec.Name, "state", rec.State, "error", err)
		}
	}
	if err := m.lan.reconcile(ctx); err != nil {
		m.log.Error("recover the network", "error", err)
	}
	m.running.Go(func() { m.lan.keep(m.ctx) })
	return m.removeOrphans(ctx, known)
}

func (m *Manager) recoverVM(ctx context.Context, x *machine) error {
	switch x.rec.State {
	case api.StateStopped:
		if x.rec.AutoRemove && !x.rec.StoppedAt.IsZero() {
			return m.end(ctx, "recover", x, ending{remove: true})
		}
		return m.recoverLease(ctx, x)
	case api.StateCreating, api.StateRemoving:
		return m.end(ctx, "recover", x, ending{remove: true})
	case api.StateStarting:
		return m.recoverEnd(ctx, x, "the daemon ended while it was starting")
	}
	process, free, err := x.vmm.find()
	if err != nil {
		return err
	}
	if free || process == nil {
		return m.recoverEnd(ctx, x, unseenEnd(x.rec.State, x.dir))
	}
	if err := m.adopt(ctx, x, process); err != nil {
		return err
	}
	if x.rec.State == api.StateStopping {
		go m.finishStop(*x.rec)
		return nil
	}
	return m.recoverLease(ctx, x)
}

// recoverEnd records the end of a VM that is not running any more; one that belonged to a client
// which is gone too is removed.
func (m *Manager) recoverEnd(ctx context.Context, x *machine, reason string) error {
	if err := m.end(ctx, "recover", x, ending{reason: reason}); err != nil || x.rec.AutoRemove {
		return err
	}
	return m.recoverLease(ctx, x)
}

// adopt takes over a VMM that another daemon started.
func (m *Manager) adopt(ctx context.Context, x *machine, process *firecracker.Process) error {
	rec := x.rec
	running := m.vmms.add(rec.ID, x.dir, process)
	m.log.Info("adopted a machine", "vm", rec.ID, "name", rec.Name, "pid", process.PID())
	if err := x.ports.take(ctx); err != nil { // each is shown with the VM, too
		m.log.Warn("reopen forwards", "vm", rec.ID, "name", rec.Name, "error", err)
	}
	var err error
	if rec.Network != api.NetworkNone {
		err = m.lan.adopt(ctx, rec.ID)
	}
	m.watch(rec.ID, running) // last: a VMM that ends at once gives back what was taken here
	return err
}

// unseenEnd says why a VMM is gone that ended while no daemon ran.
func unseenEnd(was api.State, dir Dir) string {
	if was == api.StateStopping {
		return "stopped"
	}
	return endReason(nil, dir)
}

// finishStop goes on with a stop that another daemon had begun, unless it has ended meanwhile.
func (m *Manager) finishStop(rec store.VM) {
	err := m.change(m.ctx, rec.ID, "stop", 0, func(ctx context.Context, x *machine) error {
		if x.rec.State != api.StateStopping {
			return nil
		}
		if err := m.stop(ctx, x, m.config.StopTimeout); err != nil || x.rec.AutoRemove {
			return err
		}
		return m.recoverLease(ctx, x)
	})
	if err != nil && api.CodeOf(err) != api.CodeNotFound && m.ctx.Err() == nil {
		m.log.Error("finish the stop of a machine", "vm", rec.ID, "name", rec.Name, "error", err)
	}
}

// recoverLease removes a VM whose client is gone: nobody holds its lease. An older daemon that only
// serves its last sessions may hold it still.
func (m *Manager) recoverLease(ctx context.Context, x *machine) error {
	if !x.rec.Leased {
		return nil
	}
	lock, err := tryLock(x.dir.Lease())
	if err != nil || lock == nil {
		return err
	}
	return errors.Join(lock.Close(), m.end(ctx, "recover", x, ending{remove: true}))
}

// removeOrphans removes folders of VMs that no record knows: a database was lost, or a
// teardown of an earlier banger was cut.
func (m *Manager) removeOrphans(ctx context.Context, known map[string]bool) error {
	entries, err := os.ReadDir(m.vmsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for left-over machines: %w", err)
	}
	for _, entry := range entries {
		if known[entry.Name()] {
			continue
		}
		x := m.machine(store.VM{ID: entry.Name(), Network: api.NetworkNone})
		if err := m.end(ctx, "recover", x, ending{remove: true}); err != nil {
			m.log.Error("remove a left-over machine folder", "folder", x.dir, "error", err)
		}
	}
	return nil
}
