package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"banger/api"
	"banger/internal/firecracker"
	"banger/internal/guest"
)

// Recover compares every record with what is there, as a daemon must when it starts: it adopts the VMs that run,
// records the end of those that do not, and finishes or undoes what another daemon had begun. Trouble with one VM is
// logged and does not keep the others away. It waits for no guest.
func (m *Manager) Recover(ctx context.Context) error {
	recs, err := m.Store.VMs(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, rec := range recs {
		known[rec.ID] = true
		if err := m.recoverVM(ctx, m.machine(rec)); err != nil {
			m.Log.Error("recover a VM", "vm", rec.ID, "name", rec.Name, "state", rec.State, "error", err)
		}
	}
	if err := m.recoverNetwork(ctx, recs); err != nil {
		m.Log.Error("recover the network", "error", err)
	}
	m.running.Go(m.keepNetwork)
	return m.removeStrangers(ctx, known)
}

func (m *Manager) recoverVM(ctx context.Context, machine *machine) error {
	rec := machine.rec
	switch rec.State {
	case api.StateStopped:
		if rec.AutoRemove && !rec.StoppedAt.IsZero() {
			return m.tearDown(ctx, machine)
		}
		return m.recoverLease(ctx, machine)
	case api.StateCreating, api.StateRemoving:
		return m.tearDown(ctx, machine)
	case api.StateStarting:
		return m.recoverEnd(ctx, machine, "the daemon ended while it was starting")
	}
	process, free, err := machine.findVMM()
	if err != nil {
		return err
	}
	if free || process == nil {
		return m.recoverEnd(ctx, machine, unseenEnd(rec.State, machine.dir))
	}
	m.adopt(machine, process)
	if rec.State == api.StateStopping {
		go m.finishStop(machine)
		return nil
	}
	return m.recoverLease(ctx, machine)
}

// recoverEnd records the end of a VM that is not running any more; one that belonged to a client which is gone too is removed.
func (m *Manager) recoverEnd(ctx context.Context, machine *machine, reason string) error {
	if err := m.tearDownRun(ctx, machine, reason); err != nil || machine.rec.AutoRemove {
		return err
	}
	return m.recoverLease(ctx, machine)
}

// adopt takes over a VMM that another daemon started.
func (m *Manager) adopt(machine *machine, process *firecracker.Process) {
	l := &live{process: process, agent: guest.New(guest.DialVsock(machine.dir.VsockSocket(), guest.Port))}
	machine.setLive(l)
	machine.reopenForwards()
	m.watch(machine.rec.ID, l)
	m.Log.Info("adopted a VM", "vm", machine.rec.ID, "name", machine.rec.Name, "pid", process.PID())
}

// unseenEnd says why a VMM is gone that ended while no daemon ran.
func unseenEnd(was api.State, dir Dir) string {
	if was == api.StateStopping {
		return "stopped"
	}
	return endReason(nil, dir)
}

// finishStop goes on with a stop that another daemon had begun.
func (m *Manager) finishStop(machine *machine) {
	err := m.operate(m.ctx, machine.rec.ID, "stop", 0, func(ctx context.Context) error {
		return m.stop(ctx, machine, m.Config.StopTimeout)
	})
	if err != nil && m.ctx.Err() == nil {
		m.Log.Error("finish the stop of a VM", "vm", machine.rec.ID, "name", machine.rec.Name, "error", err)
	}
}

// recoverLease removes a VM whose client is gone: nobody holds its lease. An older daemon that only serves its last
// sessions may hold it still.
func (m *Manager) recoverLease(ctx context.Context, machine *machine) error {
	if !machine.rec.Leased {
		return nil
	}
	lock, err := tryLock(machine.dir.Lease())
	if err != nil || lock == nil {
		return err
	}
	return errors.Join(lock.Close(), m.tearDown(ctx, machine))
}

// removeStrangers removes folders of VMs that no record knows: a database was lost, or a
// teardown of an earlier banger was cut.
func (m *Manager) removeStrangers(ctx context.Context, known map[string]bool) error {
	entries, err := os.ReadDir(m.vmsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for left-over VMs: %w", err)
	}
	for _, entry := range entries {
		if known[entry.Name()] {
			continue
		}
		machine := &machine{Manager: m, dir: m.Dir(entry.Name())}
		machine.rec.ID = entry.Name()
		if err := m.tearDown(ctx, machine); err != nil {
			m.Log.Error("remove a left-over VM folder", "folder", machine.dir, "error", err)
		}
	}
	return nil
}

// Lease ties a VM to a client: it returns when ctx ends, after the VM was removed. held is called once the lease is
// taken. When the manager has retired meanwhile, elsewhere removes the VM: by then another daemon owns it.
func (m *Manager) Lease(ctx context.Context, ref string, held func(), elsewhere func(ctx context.Context, id string) error) error {
	rec, err := m.Store.VM(ctx, ref)
	if err != nil {
		return err
	}
	lock, err := tryLock(m.Dir(rec.ID).Lease())
	if err != nil {
		return err
	}
	if lock == nil {
		return api.Errorf(api.CodeConflict, "another client holds the lease of VM %s", rec.Name)
	}
	defer lock.Close()
	if err := m.Store.SetLeased(ctx, rec.ID, true); err != nil {
		return err
	}
	held()
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if m.retired() {
		return elsewhere(ctx, rec.ID)
	}
	if err := m.Remove(ctx, rec.ID, true); api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	return nil // the client has removed it itself
}
