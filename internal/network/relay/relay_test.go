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
	r := &Relay{log: slog.New(slog.DiscardHandler), passages: map[*passage]bool{}, latest: map[flow]*passage{}, count: map[netip.Addr]int{}}
	r.ctx, r.cancel = context.WithCancel(t.Context())
	defer r.cancel()
	vm, other, remote := netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("172.30.0.3"), netip.MustParseAddrPort("192.0.2.1:80")
	flowOf := func(vm netip.Addr, port int) flow { return flow{netip.AddrPortFrom(vm, uint16(port)), remote} }
	enter := func(vm netip.Addr, port int) bool {
		p, let := r.enter(flowOf(vm, port), func() {})
		return p != nil || let
	}
	ports := []network.Port{{Address: vm, Policy: network.Policy{NAT: true}}, {Address: other}}
	if enter(vm, 1) {
		t.Error("an unknown VM has a connection")
	}
	r.Serve(ports)
	for i := range plan.MaxConns {
		if !enter(vm, i) {
			t.Fatalf("connection %d was refused", i)
		}
		if enter(vm, i) {
			t.Fatalf("connection %d is there twice", i)
		}
	}
	if enter(vm, plan.MaxConns) || enter(other, 1) {
		t.Error("a VM has a connection too many")
	}
	ports[1].NAT = true
	r.Serve(ports)
	if !enter(other, 1) {
		t.Error("a VM has none because another has many")
	}
	for i := range plan.MaxConns {
		r.leave(r.latest[flowOf(vm, i)])
	}
	if len(r.passages) != 1 || len(r.latest) != 1 || len(r.count) != 1 {
		t.Errorf("%d connections of %d VMs are left, %d to be found, want 1", len(r.passages), len(r.count), len(r.latest))
	}

	// A port that is used again while the connection before it is still ending.
	before := r.latest[flowOf(other, 1)]
	r.let(before)
	if p, let := r.enter(before.flow, func() {}); p != nil || !let {
		t.Error("a first packet that was sent again does not come in")
	}
	before.came = true
	p, let := r.enter(before.flow, func() {})
	if p == nil || let {
		t.Fatal("a new connection is taken for the one before it")
	}
	r.leave(before)
	if r.latest[p.flow] != p || r.count[other] != 1 {
		t.Error("the end of the connection before takes the new one along")
	}
}
