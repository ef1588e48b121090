package nft

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
)

func TestFamilies(t *testing.T) {
	address, subnet := netip.MustParseAddr("172.30.0.2"), netip.MustParsePrefix("172.30.0.0/16")
	for _, tt := range []struct {
		family        *Family
		address, net  string
		anywhere      string
		addressLength uint32
	}{
		{IP4, "172.30.0.2", "172.30.0.0/16", "0.0.0.0/0", 4},
		{IP6, "fd62:616e:6765::ac1e:2", "fd62:616e:6765::ac1e:0/112", "::/0", 16},
	} {
		t.Run(tt.family.name, func(t *testing.T) {
			f := tt.family
			if got := f.Of(address); got.String() != tt.address || FamilyOf(got) != f {
				t.Errorf("%s goes with %s, want %s", got, address, tt.address)
			}
			if got := f.Net(subnet).String(); got != tt.net {
				t.Errorf("%s goes with %s, want %s", got, subnet, tt.net)
			}
			if got := f.Anywhere().String(); got != tt.anywhere {
				t.Errorf("the default route is to %s, want %s", got, tt.anywhere)
			}
			if f.size != tt.addressLength {
				t.Errorf("addresses have %d bytes, want %d", f.size, tt.addressLength)
			}
		})
	}
	if len(Families(false)) != 1 || len(Families(true)) != 2 {
		t.Errorf("families are %d and %d, want 1 and 2", len(Families(false)), len(Families(true)))
	}
}

// Keys of sets are padded to words of four bytes, part by part, or the kernel finds none.
func TestElements(t *testing.T) {
	mac, err := net.ParseMAC("02:00:ac:1e:00:02")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		element Element
		text    string
		length  int
	}{
		{"Interface", InterfaceElement("br0"), `"br0"`, 16},
		{"IPv4", AddressElement(netip.MustParseAddr("192.0.2.1")), "192.0.2.1", 4},
		{"IPv6", AddressElement(netip.MustParseAddr("2001:db8::1")), "2001:db8::1", 16},
		{"Service", ServiceElement(netip.MustParseAddr("192.0.2.1"), 80), "192.0.2.1 . 80", 8},
		{"Source", SourceElement("tap0", mac, netip.MustParseAddr("192.0.2.1")), `"tap0" . 02:00:ac:1e:00:02 . 192.0.2.1`, 28},
		{"Source6", SourceElement("tap0", mac, netip.MustParseAddr("2001:db8::1")), `"tap0" . 02:00:ac:1e:00:02 . 2001:db8::1`, 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.element.text != tt.text || len(tt.element.key) != tt.length {
				t.Errorf("got %q of %d bytes, want %q of %d", tt.element.text, len(tt.element.key), tt.text, tt.length)
			}
		})
	}
}

func TestText(t *testing.T) {
	tables := []Table{{
		Family: IP6.Table, Name: "t",
		Sets: []Set{
			{Name: "s", Kind: IP6.Addresses, Elements: []Element{AddressElement(netip.MustParseAddr("::1"))}},
			{Name: "rates", Kind: IP6.Addresses, Dynamic: true, Timeout: time.Minute},
			{Name: "counts", Kind: IP6.Addresses, Dynamic: true},
		},
		Chains: []Chain{{
			Name: "c", Kind: nftables.ChainTypeFilter, Hook: *nftables.ChainHookInput, Priority: 5, Drop: true,
			Rules: []Rule{{InInterface("lo"), Destination(netip.MustParsePrefix("fe80::/10")), Accept}, {TCP, RejectTCP}},
		}},
	}}
	const want = `table ip6 t {
	set s {
		type ipv6_addr
		elements = { ::1 }
	}
	set rates {
		type ipv6_addr
		size 4096
		flags dynamic,timeout
		timeout 60s
	}
	set counts {
		type ipv6_addr
		size 4096
		flags dynamic
	}
	chain c {
		type filter hook input priority 5; policy drop;
		iifname "lo" ip6 daddr fe80::/10 accept
		meta l4proto tcp reject with tcp reset
	}
}
`
	if diff := cmp.Diff(want, Text(tables)); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}
