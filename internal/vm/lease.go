package vm

import (
	"context"
	"errors"
	"os"
	"time"

	"banger/api"
)

// leaseEndTimeout bounds the removal of a VM whose client has left.
const leaseEndTimeout = 2 * time.Minute

// Lease ties a VM to a client: it returns when ctx ends, after the VM was removed. held is called
// once the lease is taken. When the manager has retired meanwhile, elsewhere removes the VM: by
// then another daemon owns it.
func (m *Manager) Lease(
	ctx context.Context, ref string, held func(), elsewhere func(ctx context.Context, id string) error,
) error {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return err
	}
	l := &lease{host: m, id: rec.ID, vm: rec.Name}
	clean, err := m.perform(ctx, l.flow())
	if !clean { // a record that says leased, and nobody who holds it: the next daemon would remove the VM
		again, cancel := undoContext(ctx)
		defer cancel()
		err = errors.Join(err, l.unrecord(again), l.give(again))
	}
	if err != nil {
		return err
	}
	defer l.file.Close()
	held()
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseEndTimeout)
	defer cancel()
	if m.retired() {
		return elsewhere(ctx, rec.ID)
	}
	if err := m.Remove(ctx, rec.ID, true); api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	return nil // the client has removed it itself
}

// lease is the hold that a client has on a VM: a lock, and a record that tells the next daemon of
// it.
type lease struct {
	host   *Manager
	id, vm string // the VM, and its name

	file *os.File // nil when it is not ours
	was  *bool    // what the record said; nil before it was changed
}

func (l *lease) flow() flow {
	return flow{name: "lease", quiet: true, steps: []step{
		{name: "take lease", do: l.take, undo: l.give},
		{name: "record lease", do: l.record, undo: l.unrecord},
	}}
}

func (l *lease) take(context.Context) (err error) {
	l.file, err = tryLock(l.host.Dir(l.id).Lease())
	if err == nil && l.file == nil {
		err = api.Errorf(api.CodeConflict, "another client holds the lease of machine %s", l.vm)
	}
	return err
}

func (l *lease) give(context.Context) error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

func (l *lease) record(ctx context.Context) error {
	rec, err := l.host.store.VM(ctx, l.id) // who has the lock is alone here
	if err != nil {
		return err
	}
	l.was = &rec.Leased
	return l.host.store.SetLeased(ctx, l.id, true)
}

func (l *lease) unrecord(ctx context.Context) error {
	if l.was == nil {
		return nil
	}
	return l.host.store.SetLeased(ctx, l.id, *l.was)
}
