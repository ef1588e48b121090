package vm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"banger/api"
)

// Whatever fails in a change of policy, what is shown is what the network does.
func TestPolicyFails(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name   string
		fault  func(step string, when moment) error
		refuse bool // the keeper refuses the rule
		want   string
	}{
		{"BeforeRule", at("change rule", before, boom), false, "change rule: boom"},
		{"AfterRule", at("change rule", after, boom), false, "change rule: boom"},
		{"BeforeRecord", at("record policy", before, boom), false, "record policy: boom"},
		{"AfterRecord", at("record policy", after, boom), false, "record policy: boom"},
		{"Refused", nil, true, "change rule: refused"},
	}
	changes := map[string]func(m *Manager, id string) error{
		"nat": func(m *Manager, id string) error { _, err := m.SetNAT(context.Background(), id, false); return err },
		"host services": func(m *Manager, id string) error {
			_, err := m.SetHostServices(context.Background(), id, []int{80})
			return err
		},
	}
	for what, change := range changes {
		for _, tt := range tests {
			t.Run(what+"/"+tt.name, func(t *testing.T) {
				h := newHome(t, fakeWell).withNetwork()
				m := h.manager()
				v := h.start(m, h.create(m, api.CreateMachine{Name: "web"}).ID)
				m.fault = func(flow, step string, when moment) error {
					if tt.fault == nil || flow != what {
						return nil
					}
					return tt.fault(step, when)
				}
				if tt.refuse {
					h.refuse("PUT /ports/" + v.ID + "/policy")
				}
				if err := change(m, v.ID); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want %q", err, tt.want)
				}
				m.fault = nil
				h.refuse()
				if astray := m.lan.astray.Load(); astray != tt.refuse {
					t.Errorf("to be reconciled: %v", astray)
				}
				if tt.refuse { // the put-back failed too, and the daemon tries again
					if err := m.lan.reconcile(context.Background()); err != nil {
						t.Error(err)
					}
				}
				h.agree(m, v.ID)
				if err := change(m, v.ID); err != nil {
					t.Errorf("once more: %v", err)
				}
				h.agree(m, v.ID)
			})
		}
	}
}

// at makes a fault of one step.
func at(step string, when moment, err error) func(string, moment) error {
	return func(s string, w moment) error {
		if s == step && w == when {
			return err
		}
		return nil
	}
}

// agree fails the test unless the network does with a VM what is shown of it.
func (h *home) agree(m *Manager, id string) {
	h.t.Helper()
	v, err := m.VM(context.Background(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	p := h.networkPorts()[id]
	if v.NAT != p.NAT || len(v.HostServices) != len(p.HostServices) {
		h.t.Errorf("shown are nat %v and host services %v, the network has %v and %v", v.NAT, v.HostServices, p.NAT, p.HostServices)
	}
}
