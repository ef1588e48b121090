package network

import (
	"encoding/hex"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRelay: a guest sees of a connection what it would see without the relay.
func TestRelay(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, true)
	check(t, h.Ensure(t.Context()))
	one := h.boot(h.port("one", 2, Policy{NAT: true}))
	h.awaitUplink(t)
	for _, internet := range []string{internetAddress, "[" + internetAddress6 + "]"} {
		one.want("echoed", "echo", internet+":7")
		one.want("twice", "same", internet+":10")
		for port, want := range map[string]string{":9": "connection refused", ":8": "connection reset"} {
			if got := one.do("tcp", internet+port, "x"); !strings.Contains(got, want) {
				t.Errorf("%s%s: got %q, want %s", internet, port, got, want)
			}
		}
		// Connections that a VM may have no more end at both ends.
		cuts := []func() error{
			func() error { return h.SetPolicy(t.Context(), one.Port.ID, Policy{}) },
			func() error { return h.Detach(t.Context(), one.Port.ID) },
		}
		for _, cut := range cuts {
			check(t, h.SetPolicy(t.Context(), one.Port.ID, Policy{NAT: true}))
			one.want("hello", "keep", internet+":7")
			if !connected(t) {
				t.Fatal("the host has no connection to the internet")
			}
			check(t, cut())
			await(t, "end of the connection", func() bool { return !connected(t) })
		}
		one = h.boot(h.port("one", 2, Policy{NAT: true}))
	}
	if got := one.do("tcp", "198.51.100.77:7", ""); !strings.Contains(got, "connection refused") { // nobody has the address
		t.Errorf("a host that is not there: %s", got)
	}
}

// connected reports whether the host has a connection to port 7 of the internet (proc_net_tcp(5)).
func connected(t *testing.T) bool {
	t.Helper()
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(file)
		check(t, err)
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); strings.HasSuffix(fields[2], ":0007") && fields[3] == "01" {
				return true
			}
		}
	}
	return false
}

func TestRelayBounds(t *testing.T) {
	r := &relay{log: slog.New(slog.DiscardHandler), passages: map[*passage]bool{}, latest: map[flow]*passage{}, count: map[netip.Addr]int{}}
	r.start.Do(func() {}) // it has no files
	vm, other, remote := netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("172.30.0.3"), netip.MustParseAddrPort("192.0.2.1:80")
	flowOf := func(vm netip.Addr, port int) flow { return flow{netip.AddrPortFrom(vm, uint16(port)), remote} }
	enter := func(vm netip.Addr, port int) bool {
		p, let := r.enter(flowOf(vm, port), func() {})
		return p != nil || let
	}
	ports := []Port{{Address: vm, Policy: Policy{NAT: true}}, {Address: other}}
	if enter(vm, 1) {
		t.Error("an unknown VM has a connection")
	}
	r.serve(ports)
	for i := range maxConns {
		if !enter(vm, i) {
			t.Fatalf("connection %d was refused", i)
		}
		if enter(vm, i) {
			t.Fatalf("connection %d is there twice", i)
		}
	}
	if enter(vm, maxConns) || enter(other, 1) {
		t.Error("a VM has a connection too many")
	}
	ports[1].NAT = true
	r.serve(ports)
	if !enter(other, 1) {
		t.Error("a VM has none because another has many")
	}
	for i := range maxConns {
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

// Packets as they come from ask0; the ports are 0x1234 and 80.
const (
	syn4 = "450000280000400040060000" + "ac1e0002" + "c0000201" + "12340050" + "00000001000000005002ffff00000000"
	syn6 = "6000000000140640" + "fd62616e676500000000000000000002" + "20010db8000000000000000000000001" + "12340050" + "00000001000000005002ffff00000000"
)

func TestParseSYN(t *testing.T) {
	v4 := flow{netip.MustParseAddrPort("172.30.0.2:4660"), netip.MustParseAddrPort("192.0.2.1:80")}
	v6 := flow{netip.MustParseAddrPort("[fd62:616e:6765::2]:4660"), netip.MustParseAddrPort("[2001:db8::1]:80")}
	tests := []struct {
		name, packet string
		want         flow
		ok           bool
	}{
		{"IPv4", syn4, v4, true},
		{"Options", "4600002c0000400040060000" + "ac1e0002" + "c0000201" + "00000000" + syn4[40:], v4, true},
		{"IPv6", syn6, v6, true},
		{"ErrEmpty", "", flow{}, false},
		{"ErrVersion", "75" + syn4[2:], flow{}, false},
		{"ErrHeader", "44" + syn4[2:], flow{}, false},
		{"ErrLongHeader", "4f" + syn4[2:], flow{}, false},
		{"ErrShort", syn4[:len(syn4)-2], flow{}, false},
		{"ErrShort6", syn6[:len(syn6)-2], flow{}, false},
		{"ErrUDP", syn4[:18] + "11" + syn4[20:], flow{}, false},
		{"ErrExtension", syn6[:12] + "3c" + syn6[14:], flow{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			packet, err := hex.DecodeString(tt.packet)
			check(t, err)
			got, ok := parseSYN(packet)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(flow{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); ok != tt.ok || diff != "" {
				t.Errorf("ok %t, flow (-want +got):\n%s", ok, diff)
			}
		})
	}
}

func FuzzParseSYN(f *testing.F) {
	for _, text := range []string{syn4, syn6} {
		packet, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if got, ok := parseSYN(packet); ok && (!got.vm.IsValid() || got.vm.Addr().Is4() != got.remote.Addr().Is4()) {
			t.Errorf("from %x came %v", packet, got)
		}
	})
}
