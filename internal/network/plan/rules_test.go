package plan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/network"
	"banger/internal/network/nettest"
	"banger/internal/network/nft"
	"banger/internal/network/plan"
)

// exampleState has one endpoint of each policy.
func exampleState() plan.State {
	address := netip.MustParseAddr
	return plan.State{
		Subnet: network.DefaultSubnet, MTU: 1500, HostAddresses: []netip.Addr{address("192.0.2.7"), address("127.0.0.1"), address("127.0.0.1")},
		IPv6: true, Relay: true, HostAddresses6: []netip.Addr{address("::1"), address("2001:db8::7"), address("2001:db8::7")},
		Endpoints: []network.Endpoint{
			{ID: "b", Name: "two", MAC: "02:00:ac:1e:00:03", Address: address("172.30.0.3"), Policy: network.Policy{Isolated: true, HostServices: []int{5432, 80}}},
			{ID: "a", Name: "one", MAC: "02:00:ac:1e:00:02", Address: address("172.30.0.2"), Policy: network.Policy{NAT: true}},
		},
	}
}

const exampleRules = `table bridge banger {
	set sources {
		type ifname . ether_addr . ipv4_addr
		elements = { "tapac1e0002" . 02:00:ac:1e:00:02 . 172.30.0.2, "tapac1e0003" . 02:00:ac:1e:00:03 . 172.30.0.3 }
	}
	set isolated {
		type ifname
		elements = { "tapac1e0003" }
	}
	set sources6 {
		type ifname . ether_addr . ipv6_addr
		elements = { "tapac1e0002" . 02:00:ac:1e:00:02 . fd62:616e:6765::ac1e:2, "tapac1e0002" . 02:00:ac:1e:00:02 . fe80::acff:fe1e:2, "tapac1e0003" . 02:00:ac:1e:00:03 . fd62:616e:6765::ac1e:3, "tapac1e0003" . 02:00:ac:1e:00:03 . fe80::acff:fe1e:3 }
	}
	chain prerouting {
		type filter hook prerouting priority -200; policy drop;
		ether type ip iifname . ether saddr . ip saddr @sources accept
		ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . ether saddr . arp saddr ip @sources iifname . arp saddr ether . arp saddr ip @sources accept
		ether type ip6 iifname . ether saddr . ip6 saddr @sources6 meta l4proto != ipv6-icmp accept
		ether type ip6 iifname . ether saddr . ip6 saddr @sources6 icmpv6 type <= echo-reply accept
		ether type ip6 iifname . ether saddr . ip6 saddr @sources6 icmpv6 type nd-neighbor-solicit accept
		ether type ip6 iifname . ether saddr . ip6 saddr @sources6 icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 @sources6 accept
	}
	chain forward {
		type filter hook forward priority -200; policy accept;
		iifname @isolated drop
		oifname @isolated drop
	}
	chain input {
		type filter hook input priority -200; policy accept;
		ether type ip ip daddr 172.30.0.0/16 ip daddr != 172.30.0.1 ip daddr != 172.30.255.254 drop
		ether type ip6 ip6 daddr fd62:616e:6765::ac1e:0/112 ip6 daddr != fd62:616e:6765::ac1e:1 ip6 daddr != fd62:616e:6765::ac1e:fffe drop
		ether type ip6 ip6 daddr fe80::/10 drop
	}
}
table ip banger {
	set nat {
		type ipv4_addr
		elements = { 172.30.0.2 }
	}
	set host {
		type ipv4_addr
		elements = { 127.0.0.1, 192.0.2.7 }
	}
	set services {
		type ipv4_addr . inet_service
		elements = { 172.30.0.3 . 5432, 172.30.0.3 . 80 }
	}
	set asking {
		type ipv4_addr
		size 4096
		flags dynamic,timeout
		timeout 60s
	}
	set conns {
		type ipv4_addr
		size 4096
		flags dynamic
	}
	set opening {
		type ipv4_addr
		size 4096
		flags dynamic,timeout
		timeout 60s
	}
	chain relay {
		type filter hook prerouting priority -150; policy accept;
		iifname "br0" ip daddr 172.30.0.0/16 accept
		iifname "br0" ip daddr 0.0.0.0/8 accept
		iifname "br0" ip daddr 127.0.0.0/8 accept
		iifname "br0" ip daddr 169.254.0.0/16 accept
		iifname "br0" ip daddr @host accept
		iifname "br0" ip saddr @nat tcp flags & (fin | syn | rst | ack) == syn update @opening { ip saddr limit rate over 5000/second burst 5000 packets } drop
		iifname "br0" ip saddr @nat tcp flags & (fin | syn | rst | ack) == syn meta mark set 0x00000066 accept
		iifname "br0" ip saddr @nat meta l4proto tcp tproxy to 127.0.0.1:15001 meta mark set 0x00000065 accept
		iifname "syn0" meta l4proto tcp tproxy to 127.0.0.1:15001 meta mark set 0x00000065 accept
		iifname "reset0" meta l4proto tcp meta mark set 0x00000065 accept
	}
	chain input {
		type filter hook input priority 0; policy drop;
		iifname "reset0" meta l4proto tcp reject with tcp reset
		meta mark 0x00000065 accept
		iifname "lo" accept
		iifname "br0" ip daddr 172.30.0.1 ip saddr . tcp dport @services ct state new add @conns { ip saddr ct count over 4096 } drop
		iifname "br0" ip daddr 172.30.0.1 ip saddr . tcp dport @services accept
		iifname "br0" ip daddr 172.30.0.1 update @asking { ip saddr limit rate over 250/second burst 250 packets } drop
		iifname "br0" ip daddr 172.30.0.1 udp dport 53 accept
		iifname "br0" ip daddr 172.30.0.1 tcp dport 53 accept
		iifname "br0" ip daddr 172.30.0.1 icmp type echo-request accept
		iifname "up0" ct state established,related accept
		iifname "up0" ip saddr 172.30.255.254 ip daddr 172.30.0.1 udp dport 53 accept
		iifname "up0" ip saddr 172.30.255.254 ip daddr 172.30.0.1 tcp dport 53 accept
	}
	chain forward {
		type filter hook forward priority 0; policy drop;
		iifname "br0" oifname "br0" accept
		iifname "br0" ip daddr 172.30.255.254 ct state established,related accept
		iifname "br0" ip daddr 0.0.0.0/8 drop
		iifname "br0" ip daddr 127.0.0.0/8 drop
		iifname "br0" ip daddr 169.254.0.0/16 drop
		iifname "br0" ip daddr 172.30.0.0/16 drop
		iifname "br0" ip daddr @host drop
		iifname "br0" oifname "syn0" ip saddr @nat accept
		iifname "br0" oifname "up0" ip saddr @nat ct state new add @conns { ip saddr ct count over 4096 } drop
		iifname "br0" oifname "up0" ip saddr @nat accept
		iifname "up0" oifname "br0" ct state established,related accept
		iifname "up0" oifname "br0" ip saddr 172.30.255.254 accept
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		oifname "up0" ip saddr @nat masquerade
	}
}
table ip6 banger {
	set nat {
		type ipv6_addr
		elements = { fd62:616e:6765::ac1e:2 }
	}
	set host {
		type ipv6_addr
		elements = { ::1, 2001:db8::7 }
	}
	set asking {
		type ipv6_addr
		size 4096
		flags dynamic,timeout
		timeout 60s
	}
	set conns {
		type ipv6_addr
		size 4096
		flags dynamic
	}
	set opening {
		type ipv6_addr
		size 4096
		flags dynamic,timeout
		timeout 60s
	}
	chain relay {
		type filter hook prerouting priority -150; policy accept;
		iifname "br0" ip6 daddr fd62:616e:6765::ac1e:0/112 accept
		iifname "br0" ip6 daddr ::/16 accept
		iifname "br0" ip6 daddr fe80::/10 accept
		iifname "br0" ip6 daddr @host accept
		iifname "br0" ip6 saddr @nat tcp flags & (fin | syn | rst | ack) == syn update @opening { ip6 saddr limit rate over 5000/second burst 5000 packets } drop
		iifname "br0" ip6 saddr @nat tcp flags & (fin | syn | rst | ack) == syn meta mark set 0x00000066 accept
		iifname "br0" ip6 saddr @nat meta l4proto tcp tproxy to [::1]:15001 meta mark set 0x00000065 accept
		iifname "syn0" meta l4proto tcp tproxy to [::1]:15001 meta mark set 0x00000065 accept
		iifname "reset0" meta l4proto tcp meta mark set 0x00000065 accept
	}
	chain input {
		type filter hook input priority 0; policy drop;
		iifname "reset0" meta l4proto tcp reject with tcp reset
		meta mark 0x00000065 accept
		iifname "lo" accept
		icmpv6 type nd-neighbor-solicit accept
		icmpv6 type nd-neighbor-advert accept
		iifname "br0" ip6 daddr fd62:616e:6765::ac1e:1 update @asking { ip6 saddr limit rate over 250/second burst 250 packets } drop
		iifname "br0" ip6 daddr fd62:616e:6765::ac1e:1 icmpv6 type echo-request accept
		iifname "up0" ct state established,related accept
	}
	chain forward {
		type filter hook forward priority 0; policy drop;
		iifname "br0" oifname "br0" accept
		iifname "br0" ip6 daddr fd62:616e:6765::ac1e:fffe ct state established,related accept
		iifname "br0" ip6 daddr ::/16 drop
		iifname "br0" ip6 daddr fe80::/10 drop
		iifname "br0" ip6 daddr fd62:616e:6765::ac1e:0/112 drop
		iifname "br0" ip6 daddr @host drop
		iifname "br0" oifname "syn0" ip6 saddr @nat accept
		iifname "br0" oifname "up0" ip6 saddr @nat ct state new add @conns { ip6 saddr ct count over 4096 } drop
		iifname "br0" oifname "up0" ip6 saddr @nat accept
		iifname "up0" oifname "br0" ct state established,related accept
		iifname "up0" oifname "br0" ip6 saddr fd62:616e:6765::ac1e:fffe accept
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		oifname "up0" ip6 saddr @nat masquerade
	}
}
`

const exampleHostRules = `table ip banger-host-x {
	chain forward {
		type filter hook forward priority 0; policy accept;
		iifname "bgr-x" ip saddr 172.30.0.0/16 accept
		oifname "bgr-x" ct state established,related accept
		oifname "bgr-x" drop
		iifname "bgr-x" drop
	}
	chain input {
		type filter hook input priority 0; policy accept;
		iifname "bgr-x" ct state established,related accept
		iifname "bgr-x" drop
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		oifname != "bgr-x" ip saddr 172.30.0.0/16 masquerade
	}
}
table ip6 banger-host-x {
	chain forward {
		type filter hook forward priority 0; policy accept;
		iifname "bgr-x" ip6 saddr fd62:616e:6765::ac1e:0/112 accept
		oifname "bgr-x" ct state established,related accept
		oifname "bgr-x" drop
		iifname "bgr-x" drop
	}
	chain input {
		type filter hook input priority 0; policy accept;
		iifname "bgr-x" ct state established,related accept
		iifname "bgr-x" icmpv6 type nd-neighbor-solicit accept
		iifname "bgr-x" icmpv6 type nd-neighbor-advert accept
		iifname "bgr-x" drop
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		oifname != "bgr-x" ip6 saddr fd62:616e:6765::ac1e:0/112 masquerade
	}
}
`

func exampleHostTables() (tables []nft.Table) {
	for _, f := range []*nft.Family{nft.IP4, nft.IP6} {
		tables = append(tables, plan.HostRules(f, "banger-host-x", "bgr-x", network.DefaultSubnet))
	}
	return tables
}

func TestPlannedRules(t *testing.T) {
	if diff := cmp.Diff(exampleRules, nft.Text(plan.Rules(exampleState()))); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	host := exampleHostTables()
	without := exampleState()
	without.IPv6 = false
	if got := nft.Text(plan.Rules(without)); strings.Contains(got, "ip6") {
		t.Errorf("rules of a network without IPv6 name it:\n%s", got)
	}
	if diff := cmp.Diff(exampleHostRules, nft.Text(host)); diff != "" {
		t.Errorf("host's rules (-want +got):\n%s", diff)
	}
}

// TestAppliedRules proves that what we tell the kernel is what the text says: nft(8) lists both
// alike.
func TestAppliedRules(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	withoutRelay := exampleState()
	withoutRelay.Relay = false
	for name, tables := range map[string][]nft.Table{
		"inside": plan.Rules(exampleState()),
		"empty":  plan.Rules(plan.State{Subnet: network.DefaultSubnet}),
		"pasta":  plan.Rules(withoutRelay),
		"host":   exampleHostTables(),
	} {
		t.Run(name, func(t *testing.T) {
			list := func() string { return withoutAdvertised(nettest.NFT(t, "list ruleset")) }
			nettest.NFT(t, "flush ruleset")
			nettest.NFT(t, withoutAdvertised(nft.Text(tables)))
			want := list()
			nettest.NFT(t, "flush ruleset")
			for range 2 { // the second replaces the first
				nettest.Check(t, nft.Apply(tables))
			}
			if diff := cmp.Diff(want, list()); diff != "" {
				t.Errorf("ruleset (-nft's +ours):\n%s", diff)
			}
			nettest.Check(t, nft.Apply(tables))
			empty := slices.Clone(tables)
			for i := range empty {
				empty[i].Sets = slices.Clone(empty[i].Sets)
				for j := range empty[i].Sets {
					empty[i].Sets[j].Elements = nil
				}
			}
			nettest.Check(t, nft.Refill(empty))
			if got := nettest.NFT(t, "list ruleset"); strings.Contains(got, "elements") {
				t.Errorf("emptied sets:\n%s", got)
			}
			nettest.Check(t, nft.Refill(tables))
			nettest.Check(t, nft.Refill(tables))
			if diff := cmp.Diff(want, list()); diff != "" {
				t.Errorf("refilled ruleset (-nft's +ours):\n%s", diff)
			}
			for _, table := range tables {
				nettest.Check(t, nft.Remove(table.Family, table.Name))
				nettest.Check(t, nft.Remove(table.Family, table.Name))
			}
			if left := nettest.NFT(t, "list ruleset"); left != "" {
				t.Errorf("left:\n%s", left)
			}
		})
	}
}

// withoutAdvertised leaves out the one rule that nft(8) can show and not read; spoof tests it.
func withoutAdvertised(text string) string {
	return strings.Join(slices.DeleteFunc(strings.SplitAfter(text, "\n"), func(line string) bool {
		return strings.Contains(line, "@sources6 icmpv6 type nd-neighbor-advert iifname")
	}), "")
}
