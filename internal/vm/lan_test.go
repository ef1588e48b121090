package vm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

// Who waits for a turn gives up with its context, or when its patience ends.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := newTurn()
		give, err := turn.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		left := errors.New("left")
		time.AfterFunc(time.Second, func() { cancel(left) })
		if _, err := turn.take(ctx); !errors.Is(err, left) {
			t.Errorf("a waiter that left: %v", err)
		}
		began := time.Now()
		if _, err := turn.take(t.Context()); api.CodeOf(err) != api.CodeTimeout || time.Since(began) != turnTimeout {
			t.Errorf("a waiter with patience: %v after %s, want a timeout after %s", err, time.Since(began), turnTimeout)
		}
		give()
		if give, err = turn.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		give()
	})
}

// reconcileMeanwhile begins to reconcile while the turn is taken, and returns how it ended once
// that is over.
func reconcileMeanwhile(t *testing.T, m *Manager) (ended func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- m.lan.reconcile(context.Background()) }()
	select {
	case err := <-done:
		t.Errorf("it did not wait for its turn: %v", err)
		done <- err
	case <-time.After(50 * time.Millisecond): // long enough to have read what it must not yet read
	}
	return func() error { return <-done }
}

// A machine between the making of its port and its VMM's start is wanted: its port stays.
func TestReconcileKeepsPortOfStartingVM(t *testing.T) {
	h := newHome(t, fakeWell).withNetwork()
	m := h.manager()
	v := h.create(m, api.CreateMachine{Name: "web"})
	seen := 0
	m.fault = func(flow, step string, when moment) error {
		if flow != "start" || step != "start VMM" || when != before {
			return nil
		}
		seen++
		err := m.lan.reconcile(t.Context())
		if _, ok := h.networkPorts()[v.ID]; !ok {
			t.Error("the port was taken from it")
		}
		return err
	}
	h.start(m, v.ID)
	if seen != 1 {
		t.Errorf("reconciled %d times", seen)
	}
}

// What the network is made like is read in the turn: a nat off that is under way is not undone by
// an older record.
func TestReconcileSeesPolicyMadeMeanwhile(t *testing.T) {
	h := newHome(t, fakeWell).withNetwork()
	m := h.manager()
	v := h.start(m, h.create(m, api.CreateMachine{Name: "web"}).ID)
	ended := func() error { return errors.New("never began") }
	m.fault = func(flow, step string, when moment) error {
		if flow == "nat" && step == "record policy" && when == before {
			ended = reconcileMeanwhile(t, m)
		}
		return nil
	}
	now, err := m.SetNAT(t.Context(), v.ID, false)
	if err != nil || now.NAT {
		t.Errorf("SetNAT = %v, %v", now.NAT, err)
	}
	if err := ended(); err != nil {
		t.Error(err)
	}
	if h.networkPorts()[v.ID].NAT {
		t.Error("the way out is open, though the record says it is closed")
	}
}

// A machine that ended while the reconciling waited does not come back, nor keep the network alive.
func TestReconcileLeavesEndedVM(t *testing.T) {
	h := newHome(t, fakeWell).withNetwork()
	m := h.manager()
	v := h.start(m, h.create(m, api.CreateMachine{Name: "web"}).ID)
	give, err := m.lan.turn.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := reconcileMeanwhile(t, m)
	if err := m.lan.drop(t.Context(), v.ID); err != nil { // as the end of the VM does in its turn
		t.Error(err)
	}
	give()
	if err := ended(); err != nil {
		t.Error(err)
	}
	if ports := h.networkPorts(); ports != nil {
		t.Errorf("there is a network still: %v", ports)
	}
}

// A new daemon makes the network what the records say, whatever the one before could not do.
func TestRecoverReconciles(t *testing.T) {
	h := newHome(t, fakeWell).withNetwork()
	old := h.manager()
	v := h.start(old, h.create(old, api.CreateMachine{Name: "web"}).ID)
	gone := h.start(old, h.create(old, api.CreateMachine{Name: "gone"}).ID)
	pid := old.vmms.of(gone.ID).process.PID()
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	rec, err := h.store.VM(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	p := port(rec)
	p.NAT = false // the record was not written any more
	if err := h.options.Network.SetPolicy(t.Context(), v.ID, p.Policy); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.awaitUnlocked(Dir(gone.Dir))
	h.manager()
	ports := h.networkPorts()
	if !ports[v.ID].NAT {
		t.Error("the rule is not what the record says")
	}
	if _, ok := ports[gone.ID]; ok || len(ports) != 1 {
		t.Errorf("ports %v, want that of the machine that runs", ports)
	}
}
