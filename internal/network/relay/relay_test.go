package relay

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"banger/internal/network"
	"banger/internal/network/plan"
)

func TestRelayBounds(t *testing.T) {
	r := &Relay{log: slog.New(slog.DiscardHandler), conns: map[*conn]bool{}, latest: map[flow]*conn{}, count: map[netip.Addr]int{}}
	r.ctx, r.cancel = context.WithCancel(t.Context())
	defer r.cancel()
	vm, other, remote := netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("172.30.0.3"), netip.MustParseAddrPort("192.0.2.1:80")
	flowOf := func(vm netip.Addr, port int) flow { return flow{netip.AddrPortFrom(vm, uint16(port)), remote} }
	enter := func(vm netip.Addr, port int) bool {
		c, answered := r.open(flowOf(vm, port), func() {})
		return c != nil || answered
	}
	endpoints := []network.Endpoint{{Address: vm, Policy: network.Policy{NAT: true}}, {Address: other}}
	if enter(vm, 1) {
		t.Error("an unknown machine has a connection")
	}
	r.Apply(endpoints)
	for i := range plan.MaxConns {
		if !enter(vm, i) {
			t.Fatalf("connection %d was refused", i)
		}
		if enter(vm, i) {
			t.Fatalf("connection %d is there twice", i)
		}
	}
	if enter(vm, plan.MaxConns) || enter(other, 1) {
		t.Error("a machine has a connection too many")
	}
	endpoints[1].NAT = true
	r.Apply(endpoints)
	if !enter(other, 1) {
		t.Error("a machine has none because another has many")
	}
	for i := range plan.MaxConns {
		r.remove(r.latest[flowOf(vm, i)])
	}
	if len(r.conns) != 1 || len(r.latest) != 1 || len(r.count) != 1 {
		t.Errorf("%d connections of %d machines are left, %d to be found, want 1", len(r.conns), len(r.count), len(r.latest))
	}

	// A port that is used again while the connection before it is still ending.
	before := r.latest[flowOf(other, 1)]
	r.setAnswered(before)
	if c, answered := r.open(before.flow, func() {}); c != nil || !answered {
		t.Error("a first packet that was sent again does not come in")
	}
	before.accepted = true
	c, answered := r.open(before.flow, func() {})
	if c == nil || answered {
		t.Fatal("a new connection is taken for the one before it")
	}
	r.remove(before)
	if r.latest[c.flow] != c || r.count[other] != 1 {
		t.Error("the end of the connection before takes the new one along")
	}
}
