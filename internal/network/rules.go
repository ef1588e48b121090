package network

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
)

// tableName is that of our tables: nftables needs one for frames on the bridge and one for routed packets.
const tableName = "banger"

const (
	// gatewayPackets is how many packets a VM may send to the gateway itself, in a second and at a stroke.
	gatewayPackets = 250
	// maxConns is how many connections a VM may have at once beyond the bridge, which the kernel remembers for all VMs in
	// one table, and pasta with a socket each.
	maxConns = 4096
)

// state is all that the holder makes links and rules of.
type state struct {
	Subnet        netip.Prefix `json:"subnet"`
	MTU           int          `json:"mtu"`
	Veth          bool         `json:"veth"`           // the uplink is one, else pasta, which sets up its end itself
	Ports         []Port       `json:"ports"`          // by id
	HostAddresses []netip.Addr `json:"host_addresses"` // IPv4, which no VM may reach through the uplink

	IPv6           bool         `json:"ipv6,omitempty"`            // VMs have it between each other
	Relay          bool         `json:"relay,omitempty"`           // TCP to the world goes by the relay
	Outside6       bool         `json:"outside6,omitempty"`        // the uplink has it too
	HostAddresses6 []netip.Addr `json:"host_addresses6,omitempty"` // as HostAddresses
}

// families are the versions of IP that the network carries.
func (s state) families() []*family {
	if s.IPv6 {
		return []*family{ip4, ip6}
	}
	return []*family{ip4}
}

// outside are the versions of IP that the uplink carries.
func (s state) outside() []*family {
	if s.IPv6 && s.Outside6 {
		return []*family{ip4, ip6}
	}
	return []*family{ip4}
}

// planRules returns the tables inside the namespace. They lean on each other: the bridge table lets a frame in only with
// its port's own MAC and address, therefore the routed tables may tell VMs by their address.
func planRules(s state) []table {
	s.Ports = slices.SortedFunc(slices.Values(s.Ports), func(a, b Port) int { return a.Address.Compare(b.Address) })
	tables := []table{bridgeTable(s)}
	for _, f := range s.families() {
		tables = append(tables, routedTable(f, s))
	}
	return tables
}

// bridgeTable rules the frames. Types other than ARP and IP never enter, tagged ones neither: the type is read from the
// frame, where the kernel shows the tag.
func bridgeTable(s state) table {
	isolated := set{name: "isolated", kind: kindInterface}
	sources, sources6 := set{name: "sources", kind: ip4.sources}, set{name: "sources6", kind: ip6.sources}
	for _, p := range s.Ports {
		mac, _ := net.ParseMAC(p.MAC) // the port has been checked
		sources.elements = append(sources.elements, sourceElement(p.tapName(), mac, p.Address))
		for _, a := range []netip.Addr{Address6(p.Address), linkLocal(mac)} {
			sources6.elements = append(sources6.elements, sourceElement(p.tapName(), mac, a))
		}
		if p.Isolated {
			isolated.elements = append(isolated.elements, interfaceElement(p.tapName()))
		}
	}
	t := table{family: nftables.TableFamilyBridge, name: tableName, sets: []set{sources, isolated}}
	enter := []rule{
		{ip4.etherType, ip4.sourceIn("sources"), accept},
		{etherARP, arpIPv4, arpSourceIn("sources"), senderIn("sources"), accept},
	}
	// A packet to another VM sent to the gateway's MAC would go round the forward chain by being routed back.
	var input []rule
	for _, f := range s.families() {
		own, end := f.of(Gateway(s.Subnet)), f.of(hostEnd(s.Subnet))
		input = append(input, rule{f.etherType, destination(f.net(s.Subnet)), destinationNot(own), destinationNot(end), drop})
	}
	if s.IPv6 {
		t.sets = append(t.sets, sources6)
		from := ip6.sourceIn("sources6")
		enter = append(
			enter,
			rule{ip6.etherType, from, notICMP6, accept},
			rule{ip6.etherType, from, errorOrEcho, accept},
			rule{ip6.etherType, from, neighbourSolicit, accept},
			rule{ip6.etherType, from, neighbourAdvert, advertisedIn("sources6"), accept},
		)
		input = append(input, rule{ip6.etherType, destination(netip.MustParsePrefix("fe80::/10")), drop}) // the bridge has none
	}
	t.chains = []chain{
		{name: "prerouting", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookPrerouting, priority: -200, drop: true, rules: enter},
		{name: "forward", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookForward, priority: -200, rules: []rule{
			{inInterfaceIn("isolated"), drop},
			{outInterfaceIn("isolated"), drop},
		}},
		{name: "input", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookInput, priority: -200, rules: input},
	}
	return t
}

// routedSets are the sets of a routed table.
func routedSets(f *family, s state) []set {
	nat, host := set{name: "nat", kind: f.addresses}, set{name: "host", kind: f.addresses}
	services := set{name: "services", kind: f.services}
	for _, p := range s.Ports {
		if p.NAT {
			nat.elements = append(nat.elements, addressElement(f.of(p.Address)))
		}
		for _, port := range p.HostServices {
			services.elements = append(services.elements, serviceElement(p.Address, port))
		}
	}
	addresses := s.HostAddresses
	if f == ip6 {
		addresses = s.HostAddresses6
	}
	for _, a := range slices.Compact(slices.SortedFunc(slices.Values(addresses), netip.Addr.Compare)) {
		host.elements = append(host.elements, addressElement(a))
	}
	sets := []set{nat, host}
	if f == ip4 {
		sets = append(sets, services)
	}
	sets = append(sets, set{name: "asking", kind: f.addresses, dynamic: true, timeout: time.Minute}, set{name: "conns", kind: f.addresses, dynamic: true})
	if s.Relay {
		sets = append(sets, set{name: "opening", kind: f.addresses, dynamic: true, timeout: time.Minute})
	}
	return sets
}

// routedTable rules what goes to the gateway and beyond it. Rules that cut stand before those that let established
// connections on, so a change applies to these too.
func routedTable(f *family, s state) table {
	fromVM, toVM := inInterface(bridgeName), outInterface(bridgeName)
	fromUplink, toUplink := inInterface(uplinkName), outInterface(uplinkName)
	fromHost, toHost := packetSource(f.of(hostEnd(s.Subnet))), destination(single(f.of(hostEnd(s.Subnet))))
	forward := []rule{
		// With br_netfilter in the kernel bridged packets come by here; the bridge table has judged them.
		{fromVM, toVM, accept},
		{fromVM, toHost, establishedOrRelated, accept},
	}
	for _, p := range append(slices.Clone(f.unroutable), f.net(s.Subnet)) {
		forward = append(forward, rule{fromVM, destination(p), drop})
	}
	forward = append(forward, rule{fromVM, f.destinationIn("host"), drop})
	input := gatewayRules(f, s.Subnet)
	var chains []chain
	if s.Relay {
		chains = []chain{relayRules(f, s.Subnet)}
		input = append(relayInput(), input...)
		forward = append(forward, rule{fromVM, outInterface(askName), f.sourceInNAT(), accept})
	}
	forward = append(
		forward,
		rule{fromVM, toUplink, f.sourceInNAT(), f.overConns("conns", maxConns), drop},
		rule{fromVM, toUplink, f.sourceInNAT(), accept},
		rule{fromUplink, toVM, establishedOrRelated, accept},
		rule{fromUplink, toVM, fromHost, accept},
	)
	chains = append(
		chains,
		chain{name: "input", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookInput, priority: 0, drop: true, rules: input},
		chain{name: "forward", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookForward, priority: 0, drop: true, rules: forward},
		chain{name: "postrouting", kind: nftables.ChainTypeNAT, hook: *nftables.ChainHookPostrouting, priority: 100, rules: []rule{
			{toUplink, f.sourceInNAT(), masquerade},
		}},
	)
	return table{family: f.table, name: tableName, sets: routedSets(f, s), chains: chains}
}

// gatewayRules say what the gateway takes for itself. Names and services are had at its IPv4 address; by IPv6 it only answers
// echo requests.
func gatewayRules(f *family, subnet netip.Prefix) []rule {
	fromVM, fromUplink := inInterface(bridgeName), inInterface(uplinkName)
	toGateway, fromHost := destination(single(f.of(Gateway(subnet)))), packetSource(f.of(hostEnd(subnet)))
	// A flood must not fill the name server's queue, which all VMs share.
	flood := rule{fromVM, toGateway, f.overRate("asking", gatewayPackets, gatewayPackets), drop}
	ping := rule{fromVM, toGateway, f.echoRequest, accept}
	established := rule{fromUplink, establishedOrRelated, accept}
	if f == ip6 {
		return []rule{{inInterface("lo"), accept}, {neighbourSolicit, accept}, {neighbourAdvert, accept}, flood, ping, established}
	}
	return []rule{
		{inInterface("lo"), accept},
		// Whole connections, so before what counts packets.
		{fromVM, toGateway, serviceIn("services"), f.overConns("conns", maxConns), drop},
		{fromVM, toGateway, serviceIn("services"), accept},
		flood,
		{fromVM, toGateway, udpTo53, accept},
		{fromVM, toGateway, tcpTo53, accept},
		ping,
		established,
		{fromUplink, fromHost, toGateway, udpTo53, accept},
		{fromUplink, fromHost, toGateway, tcpTo53, accept},
	}
}

// planHostRules returns the table that root's veth uplink needs in the host's namespace for a version of IP.
func planHostRules(f *family, name, link string, subnet netip.Prefix) table {
	source := packetSourceWithin(f.net(subnet))
	input := []rule{{inInterface(link), establishedOrRelated, accept}}
	if f == ip6 {
		input = append(input, rule{inInterface(link), neighbourSolicit, accept}, rule{inInterface(link), neighbourAdvert, accept})
	}
	return table{family: f.table, name: name, chains: []chain{
		{name: "forward", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookForward, priority: 0, rules: []rule{
			{inInterface(link), source, accept},
			{outInterface(link), establishedOrRelated, accept},
			{outInterface(link), drop},
			{inInterface(link), drop},
		}},
		{name: "input", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookInput, priority: 0, rules: append(input, rule{inInterface(link), drop})},
		{name: "postrouting", kind: nftables.ChainTypeNAT, hook: *nftables.ChainHookPostrouting, priority: 100, rules: []rule{
			{outInterfaceNot(link), source, masquerade},
		}},
	}}
}

// text returns tables as nft(8) reads them.
func text(tables []table) string {
	var b strings.Builder
	for _, t := range tables {
		t.write(&b)
	}
	return b.String()
}

func sortPorts(ports []Port) {
	slices.SortFunc(ports, func(a, b Port) int { return cmp.Compare(a.ID, b.ID) })
}
