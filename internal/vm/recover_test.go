package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/store"
)

// Without a VMM, each state that a daemon may have left leads to a VM that is stopped, or gone.
func TestRecoverWithoutVMM(t *testing.T) {
	tests := []struct {
		name       string
		state      api.State
		autoRemove bool
		leased     bool
		folder     bool
		want       string // state and reason, or "gone"
	}{
		{"Creating", api.StateCreating, false, false, true, "gone"},
		{"CreatingBeforeFolder", api.StateCreating, false, false, false, "gone"},
		{"Removing", api.StateRemoving, false, false, true, "gone"},
		{"RemovingAfterFolder", api.StateRemoving, false, false, false, "gone"},
		{"Stopped", api.StateStopped, false, false, true, "stopped: never started"},
		{"StoppedLeased", api.StateStopped, true, true, true, "gone"},
		{"Starting", api.StateStarting, false, false, true, "stopped: the daemon ended while it was starting"},
		{"StartingAutoRemove", api.StateStarting, true, false, true, "gone"},
		{"StartingLeased", api.StateStarting, false, true, true, "gone"},
		{"Running", api.StateRunning, false, false, true, "stopped: vmm died"},
		{"RunningLeased", api.StateRunning, false, true, true, "gone"},
		{"RunningAutoRemove", api.StateRunning, true, false, true, "gone"},
		{"Stopping", api.StateStopping, false, false, true, "stopped: stopped"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHome(t, fakeWell)
			v := h.insert(store.VM{State: tt.state, AutoRemove: tt.autoRemove, Leased: tt.leased})
			if tt.state == api.StateStopped {
				if err := h.store.SetState(t.Context(), v.ID, tt.state, "never started"); err != nil {
					t.Fatal(err)
				}
			}
			dir := Dir(filepath.Join(h.dir, "vms", v.ID))
			if tt.folder {
				h.write(dir.Disk(), "disk")
				h.write(dir.APISocket(), "of a dead VMM")
			}
			m := h.manager()
			if err := m.Recover(t.Context()); err != nil { // idempotent
				t.Fatal(err)
			}
			got := "gone"
			now, err := m.VM(t.Context(), v.ID)
			switch {
			case err == nil:
				got = string(now.State) + ": " + now.Reason
			case api.CodeOf(err) != api.CodeNotFound:
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("machine is %q, want %q", got, tt.want)
			}
			if _, err := os.Stat(dir.Disk()); (err == nil) != (tt.want != "gone") {
				t.Errorf("the disk: %v", err)
			}
		})
	}
}

func TestRecoverRemovesOrphans(t *testing.T) {
	h := newHome(t, fakeWell)
	orphan := filepath.Join(h.dir, "vms", "0123456789ab")
	h.write(filepath.Join(orphan, "disk.ext4"), "x")
	h.write(filepath.Join(h.dir, "vms", "file"), "not a machine; it must not keep the others away")
	known := h.insert(store.VM{State: api.StateRunning})
	h.manager()
	if _, err := os.Stat(orphan); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the orphan's folder: %v", err)
	}
	if v, err := h.store.VM(t.Context(), known.ID); err != nil || v.State != api.StateStopped {
		t.Errorf("the known machine = %s, %v", v.State, err)
	}
}

// A VM outlives its daemon, by its record or, when the daemon died before it could record the VMM,
// by its socket.
func TestAdopt(t *testing.T) {
	tests := []struct {
		name   string
		before func(h *home, id string) error // what the daemon's death left
	}{
		{"ByRecord", func(*home, string) error { return nil }},
		{"BySocket", func(h *home, id string) error { return h.store.SetVMM(h.t.Context(), id, 0, 0) }},
		{"AnotherHasThePID", func(h *home, id string) error { return h.store.SetVMM(h.t.Context(), id, os.Getpid(), 1) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHome(t, fakeWell)
			old := h.manager()
			v := h.start(old, h.create(old, api.CreateMachine{}).ID)
			pid := old.vmms.of(v.ID).process.PID()
			if err := errors.Join(old.Close(), tt.before(h, v.ID)); err != nil {
				t.Fatal(err)
			}
			m := h.manager()
			l := m.vmms.of(v.ID)
			if l == nil || l.process.PID() != pid {
				t.Fatalf("adopted %+v, want process %d", l, pid)
			}
			if agent, _, err := m.Agent(t.Context(), v.ID); err != nil {
				t.Error(err)
			} else if _, err := agent.Health(t.Context()); err != nil {
				t.Errorf("Health of the adopted guest: %v", err)
			}
			stopped, err := m.Stop(t.Context(), v.ID, 0)
			if err != nil || stopped.Reason != "stopped" {
				t.Errorf("Stop = %q, %v", stopped.Reason, err)
			}
		})
	}
}

func TestAdoptedVMMDies(t *testing.T) {
	h := newHome(t, fakeWell)
	old := h.manager()
	v := h.start(old, h.create(old, api.CreateMachine{}).ID)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	m := h.manager()
	if err := m.vmms.of(v.ID).process.Kill(); err != nil {
		t.Fatal(err)
	}
	if now := h.await(m, v.ID, api.WaitStopped); now.Reason != "vmm died" {
		t.Errorf("Reason = %q", now.Reason)
	}
}

// A daemon that died in the middle of a start or a stop left a VMM behind.
func TestRecoverWithVMM(t *testing.T) {
	tests := []struct {
		state api.State
		want  string
	}{
		{api.StateStarting, "the daemon ended while it was starting"},
		{api.StateStopping, "stopped"},
		{api.StateRemoving, ""},
	}
	for _, tt := range tests {
		t.Run(string(tt.state), func(t *testing.T) {
			h := newHome(t, fakeWell)
			old := h.manager()
			v := h.start(old, h.create(old, api.CreateMachine{}).ID)
			if err := errors.Join(old.Close(), h.store.SetState(t.Context(), v.ID, tt.state, "")); err != nil {
				t.Fatal(err)
			}
			m := h.manager()
			if tt.state == api.StateRemoving {
				if _, err := m.VM(t.Context(), v.ID); api.CodeOf(err) != api.CodeNotFound {
					t.Errorf("machine = %v, want not found", err)
				}
				return
			}
			now := h.await(m, v.ID, api.WaitStopped)
			if now.Reason != tt.want || now.VMM != nil {
				t.Errorf("machine = %+v, want reason %q", now, tt.want)
			}
			lock, err := tryLock(m.Dir(v.ID).Lock())
			if lock == nil || err != nil {
				t.Fatalf("the lock is held still (%v)", err)
			}
			lock.Close()
		})
	}
}

// A teardown may be cut anywhere and is run again: twice gives the same as once.
func TestTearDownIsIdempotent(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.start(m, h.create(m, api.CreateMachine{}).ID)
	rec, err := h.store.VM(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	// As the VM's operation, as everywhere: the watcher of the VMM records its end too.
	err = m.operate(t.Context(), v.ID, "test", 0, func(ctx context.Context) error {
		for _, e := range []ending{{reason: "x"}, {reason: "x"}, {remove: true}, {remove: true}} {
			if err := m.end(ctx, "test", m.machine(rec), e); err != nil {
				t.Errorf("end %+v: %v", e, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A stop that a dead daemon began is finished, and then the VM goes whose client has gone too.
func TestRecoverStopOfLeased(t *testing.T) {
	h := newHome(t, fakeWell)
	old := h.manager()
	v := h.start(old, h.create(old, api.CreateMachine{Lease: true}).ID)
	if err := errors.Join(old.Close(), h.store.SetState(t.Context(), v.ID, api.StateStopping, "")); err != nil {
		t.Fatal(err)
	}
	m := h.manager()
	patience := time.After(20 * time.Second)
	for {
		next := m.nextChange()
		now, err := m.VM(t.Context(), v.ID)
		if api.CodeOf(err) == api.CodeNotFound {
			return
		}
		select {
		case <-next:
		case <-patience:
			t.Fatalf("it is %s still, %v", now.State, err)
		}
	}
}

// A stop that is to be finished is none any more when somebody else has ended the VM, or started it
// anew.
func TestFinishStopReadsTheRecord(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.start(m, h.create(m, api.CreateMachine{}).ID)
	stale, err := h.store.VM(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	stale.State = api.StateStopping
	m.finishStop(stale)
	if now, err := m.VM(t.Context(), v.ID); err != nil || now.State != api.StateRunning {
		t.Errorf("a machine that runs is %s (%s), %v", now.State, now.Reason, err)
	}
	if _, err := m.Kill(t.Context(), v.ID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.finishStop(stale)
	if now, err := m.VM(t.Context(), v.ID); err != nil || now.Reason != "killed" {
		t.Errorf("a machine that was killed is %s (%s), %v", now.State, now.Reason, err)
	}
}

// What a failed flow left on its way, or a VMM that has just ended, keeps nobody from starting the
// VM.
func TestStartSettles(t *testing.T) {
	for _, state := range []api.State{api.StateStarting, api.StateStopping, api.StateRunning} {
		t.Run(string(state), func(t *testing.T) {
			h := newHome(t, fakeWell)
			m := h.manager()
			v := h.start(m, h.create(m, api.CreateMachine{}).ID)
			running := m.vmms.of(v.ID)
			err := m.operate(t.Context(), v.ID, "test", 0, func(ctx context.Context) error { // the watcher waits
				if err := running.process.Kill(); err != nil {
					return err
				}
				<-running.process.Done()
				if err := h.store.SetState(ctx, v.ID, state, ""); err != nil {
					return err
				}
				rec, err := h.store.VM(ctx, v.ID)
				if err != nil {
					return err
				}
				return m.settleBeforeStart(ctx, m.machine(rec))
			})
			if err != nil {
				t.Error(err)
			}
			if now := h.start(m, v.ID); now.State != api.StateRunning || now.VMM.PID == v.VMM.PID {
				t.Errorf("Start = %+v", now)
			}
		})
	}
}

func TestLease(t *testing.T) {
	tests := []struct {
		name string
		end  func(m *Manager, id string) error // before the client leaves
		want string                            // who removed the VM
	}{
		{"ClientLeaves", func(*Manager, string) error { return nil }, "lease"},
		{"ClientRemovesItself", func(m *Manager, id string) error { return m.Remove(context.Background(), id, true) }, "client"},
		{"AnotherDaemonHasIt", func(m *Manager, _ string) error { m.Retire(context.Background()); return nil }, "elsewhere"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHome(t, fakeWell)
			m := h.manager()
			v := h.create(m, api.CreateMachine{Lease: true, AutoRemove: true})
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			held, ended, elsewhere := make(chan struct{}), make(chan error, 1), ""
			go func() {
				ended <- m.Lease(ctx, v.ID, func() { close(held) }, func(_ context.Context, id string) error {
					elsewhere = id
					return nil
				})
			}()
			select {
			case <-held:
			case <-time.After(10 * time.Second):
				t.Fatal("the lease is not held")
			}
			if err := m.Lease(t.Context(), v.ID, nil, nil); api.CodeOf(err) != api.CodeConflict {
				t.Errorf("a second lease = %v, want conflict", err)
			}
			if err := tt.end(m, v.ID); err != nil {
				t.Fatal(err)
			}
			leave()
			if err := <-ended; err != nil {
				t.Errorf("Lease = %v", err)
			}
			wantElsewhere := ""
			if tt.want == "elsewhere" {
				wantElsewhere = v.ID
			}
			if diff := cmp.Diff(wantElsewhere, elsewhere); diff != "" {
				t.Errorf("removed elsewhere (-want +got):\n%s", diff)
			}
			_, err := h.store.VM(t.Context(), v.ID)
			if gone := api.CodeOf(err) == api.CodeNotFound; gone != (tt.want != "elsewhere") {
				t.Errorf("the record: %v", err)
			}
		})
	}
}

// An older daemon that serves its last sessions holds the lease: the new one leaves the VM alone.
func TestRecoverLeavesHeldLease(t *testing.T) {
	h := newHome(t, fakeWell)
	v := h.insert(store.VM{State: api.StateStopped, Leased: true})
	dir := Dir(filepath.Join(h.dir, "vms", v.ID))
	h.write(dir.Disk(), "disk")
	lock, err := tryLock(dir.Lease())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	m := h.manager()
	if _, err := m.VM(t.Context(), v.ID); err != nil {
		t.Errorf("machine whose lease is held: %v", err)
	}
}

func TestWait(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.create(m, api.CreateMachine{Name: "web"})
	if _, err := m.Wait(t.Context(), "web", "nonsense"); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("Wait for nonsense = %v, want invalid", err)
	}
	if _, err := m.Wait(t.Context(), "web", api.WaitRunning); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("Wait until a stopped machine runs = %v, want conflict", err)
	}
	if now, err := m.Wait(t.Context(), "web", api.WaitStopped); err != nil || now.ID != v.ID {
		t.Errorf("Wait until stopped = %+v, %v", now, err)
	}
	h.start(m, v.ID)
	gone := make(chan error, 1)
	go func() {
		_, err := m.Wait(context.Background(), v.ID, api.WaitStopped)
		gone <- err
	}()
	if err := m.Remove(t.Context(), v.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := <-gone; err != nil && api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("Wait for a machine that was removed = %v", err)
	}
}
