package relay

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Packets as they come from syn0; the ports are 0x1234 and 80.
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
			must(t, err)
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
