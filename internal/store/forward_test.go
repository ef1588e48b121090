package store

import (
	"net/netip"
	"testing"

	"banger/api"
)

func TestForwards(t *testing.T) {
	s := open(t)
	image, kernel := withArtifacts(t, s)
	loopback := netip.MustParseAddr("127.0.0.1")
	web := api.Forward{Protocol: api.TCP, Host: loopback, HostPort: 8080, GuestPort: 80}
	first := VM{ID: "aaaa00000001", Name: "web", ImageID: image, KernelID: kernel, State: api.StateStopped, Forwards: []api.Forward{web}}
	second := VM{ID: "aaaa00000002", Name: "db", ImageID: image, KernelID: kernel, State: api.StateStopped}
	for _, v := range []*VM{&first, &second} {
		if err := s.InsertVM(t.Context(), v, nil); err != nil {
			t.Fatal(err)
		}
	}
	third := VM{ID: "aaaa00000003", Name: "late", ImageID: image, KernelID: kernel, State: api.StateStopped, Forwards: []api.Forward{web}}
	if err := s.InsertVM(t.Context(), &third, nil); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("insert with a port that is taken: %v", err)
	}
	if _, err := s.VM(t.Context(), "late"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a machine whose forward was refused: %v", err)
	}
	if err := s.AddForward(t.Context(), second.ID, web); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("add a port that is taken: %v", err)
	}
	if err := s.AddForward(t.Context(), "aaaa0000ffff", api.Forward{Protocol: api.TCP, Host: loopback, HostPort: 1, GuestPort: 1}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("add to no machine: %v", err)
	}
	other := web
	other.Protocol = api.UDP
	if err := s.AddForward(t.Context(), second.ID, other); err != nil {
		t.Errorf("the same port of another protocol: %v", err)
	}
	if err := s.DeleteForward(t.Context(), second.ID, web); err != nil { // is another VM's
		t.Error(err)
	}
	if v, err := s.VM(t.Context(), "web"); err != nil || len(v.Forwards) != 1 || v.Forwards[0] != web {
		t.Errorf("web has %v, %v", v.Forwards, err)
	}
	if err := s.DeleteVM(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.AddForward(t.Context(), second.ID, web); err != nil {
		t.Errorf("the port of a machine that is gone: %v", err)
	}
}
