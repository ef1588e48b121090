package vm

import (
	"net"
	"strings"
	"testing"

	"banger/api"
)

// isOpen reports whether somebody listens on a port of the host.
func isOpen(f api.Forward) bool {
	listener, err := net.Listen("tcp", f.Listen())
	if err == nil {
		listener.Close()
	}
	return err != nil
}

func TestForwards(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.create(m, api.CreateMachine{Name: "web"})
	f, err := m.AddForward(t.Context(), "web", api.Forward{GuestPort: 80})
	if err != nil || f.HostPort == 0 || f.Protocol != api.TCP || f.Host.String() != "127.0.0.1" {
		t.Fatalf("AddForward = %+v, %v; want a port of 127.0.0.1 for tcp", f, err)
	}
	if isOpen(f) {
		t.Error("it is open though the machine is stopped")
	}
	h.start(m, v.ID)
	if !isOpen(f) {
		t.Error("it is closed though the machine runs")
	}

	// Another one of that port is refused, and leaves the one that is there.
	other := f
	other.GuestPort = 81
	if _, err := m.AddForward(t.Context(), "web", other); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("another forward of that port: %v, want a conflict", err)
	}
	if now, err := m.VM(t.Context(), "web"); err != nil || len(now.Forwards) != 1 || now.Forwards[0] != f || !isOpen(f) {
		t.Errorf("after that: %v, %v", now.Forwards, err)
	}

	if err := m.RemoveForward(t.Context(), "web", f); err != nil || isOpen(f) {
		t.Errorf("RemoveForward: %v, open: %v", err, isOpen(f))
	}
	if err := m.RemoveForward(t.Context(), "web", f); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("RemoveForward twice: %v, want not found", err)
	}
}

// A forward whose port somebody else took while no daemon was there is shown with the reason, and
// opened again when it is asked for.
func TestForwardIsOpenedAgain(t *testing.T) {
	h := newHome(t, fakeWell)
	old := h.manager()
	f := freeForward()
	v := h.start(old, h.create(old, api.CreateMachine{Name: "web", Forwards: []api.Forward{f}}).ID)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", f.Listen())
	if err != nil {
		t.Fatal(err)
	}
	m := h.manager()
	shown := func() string {
		t.Helper()
		now, err := m.VM(t.Context(), v.ID)
		if err != nil || len(now.Forwards) != 1 {
			t.Fatalf("forwards %v, %v", now.Forwards, err)
		}
		return now.Forwards[0].Error
	}
	if got := shown(); !strings.Contains(got, "in use") {
		t.Errorf("it is shown with %q", got)
	}
	if _, err := m.AddForward(t.Context(), v.ID, f); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("AddForward while it is taken: %v", err)
	}
	if got := shown(); !strings.Contains(got, "in use") {
		t.Errorf("after that it is shown with %q", got)
	}
	taken.Close()
	if _, err := m.AddForward(t.Context(), v.ID, f); err != nil || shown() != "" || !isOpen(f) {
		t.Errorf("AddForward: %v, shown with %q, open: %v", err, shown(), isOpen(f))
	}
}
