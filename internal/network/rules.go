package network

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// tableName is that of our tables: nftables needs one for frames on the bridge and one for routed packets.
const tableName = "banger"

// gatewayPackets is how many packets a VM may send to the gateway itself, in a second and at a stroke.
const gatewayPackets = 250

// state is all that the holder makes links and rules of.
type state struct {
	Subnet        netip.Prefix `json:"subnet"`
	MTU           int          `json:"mtu"`
	Veth          bool         `json:"veth"`           // the uplink is one, else pasta, which sets up its end itself
	Ports         []Port       `json:"ports"`          // by id
	HostAddresses []netip.Addr `json:"host_addresses"` // IPv4, which no VM may reach through the uplink
}

// planRules returns the tables inside the namespace. They lean on each other: the bridge table lets a frame in only with
// its port's own MAC and IPv4 address, therefore the ip table may tell VMs by their address.
func planRules(s state) []table {
	ports := slices.SortedFunc(slices.Values(s.Ports), func(a, b Port) int { return a.Address.Compare(b.Address) })
	sources := set{name: "sources", kind: kindSource}
	isolated := set{name: "isolated", kind: kindInterface}
	nat := set{name: "nat", kind: kindAddress}
	services := set{name: "services", kind: kindService}
	for _, p := range ports {
		sources.elements = append(sources.elements, sourceElement(p))
		if p.Isolated {
			isolated.elements = append(isolated.elements, interfaceElement(p.tapName()))
		}
		if p.NAT {
			nat.elements = append(nat.elements, addressElement(p.Address))
		}
		for _, port := range p.HostServices {
			services.elements = append(services.elements, serviceElement(p.Address, port))
		}
	}
	host := set{name: "host", kind: kindAddress}
	for _, a := range slices.Compact(slices.SortedFunc(slices.Values(s.HostAddresses), netip.Addr.Compare)) {
		host.elements = append(host.elements, addressElement(a))
	}
	return []table{bridgeTable(s.Subnet, sources, isolated), routedTable(s.Subnet, nat, host, services)}
}

// bridgeTable rules the frames. Types other than ARP and IPv4 never enter, tagged ones neither: the type is read from the
// frame, where the kernel shows the tag.
func bridgeTable(subnet netip.Prefix, sources, isolated set) table {
	return table{family: nftables.TableFamilyBridge, name: tableName, sets: []set{sources, isolated}, chains: []chain{
		{name: "prerouting", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookPrerouting, priority: -200, drop: true, rules: []rule{
			{etherIPv4, sourceIn("ip saddr", "sources"), accept},
			{etherARP, arpIPv4, sourceIn("arp saddr ip", "sources"), senderIn("sources"), accept},
		}},
		{name: "forward", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookForward, priority: -200, rules: []rule{
			{inInterfaceIn("isolated"), drop},
			{outInterfaceIn("isolated"), drop},
		}},
		// A packet to another VM sent to the gateway's MAC would go round the forward chain by being routed back.
		{name: "input", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookInput, priority: -200, rules: []rule{
			{etherIPv4, destination(subnet), destinationNot(Gateway(subnet)), destinationNot(hostEnd(subnet)), drop},
		}},
	}}
}

// routedTable rules what goes to the gateway and beyond it. Rules that cut stand before those that let established
// connections on, so a change applies to these too.
func routedTable(subnet netip.Prefix, nat, host, services set) table {
	fromVM, toVM := inInterface(bridgeName), outInterface(bridgeName)
	fromUplink, toUplink := inInterface(uplinkName), outInterface(uplinkName)
	toGateway := destination(netip.PrefixFrom(Gateway(subnet), 32))
	// A flood must not fill the name server's queue, which all VMs share.
	asking := set{name: "asking", kind: kindAddress, dynamic: true}
	return table{family: nftables.TableFamilyIPv4, name: tableName, sets: []set{nat, host, services, asking}, chains: []chain{
		{name: "input", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookInput, priority: 0, drop: true, rules: []rule{
			{inInterface("lo"), accept},
			{fromVM, toGateway, serviceIn("services"), accept}, // whole connections, so before what counts packets
			{fromVM, toGateway, overRate("asking", gatewayPackets, gatewayPackets), drop},
			{fromVM, toGateway, udpTo53, accept},
			{fromVM, toGateway, tcpTo53, accept},
			{fromVM, toGateway, echoRequest, accept},
			{fromUplink, establishedOrRelated, accept},
			{fromUplink, packetSource(hostEnd(subnet)), toGateway, udpTo53, accept},
			{fromUplink, packetSource(hostEnd(subnet)), toGateway, tcpTo53, accept},
		}},
		{name: "forward", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookForward, priority: 0, drop: true, rules: []rule{
			// With br_netfilter in the kernel bridged packets come by here; the bridge table has judged them.
			{fromVM, toVM, accept},
			{fromVM, destination(netip.PrefixFrom(hostEnd(subnet), 32)), establishedOrRelated, accept},
			{fromVM, destination(netip.MustParsePrefix("127.0.0.0/8")), drop},
			{fromVM, destination(netip.MustParsePrefix("169.254.0.0/16")), drop},
			{fromVM, destination(subnet), drop},
			{fromVM, destinationIn("host"), drop},
			{fromVM, toUplink, packetSourceIn("nat"), accept},
			{fromUplink, toVM, establishedOrRelated, accept},
			{fromUplink, toVM, packetSource(hostEnd(subnet)), accept},
		}},
		{name: "postrouting", kind: nftables.ChainTypeNAT, hook: *nftables.ChainHookPostrouting, priority: 100, rules: []rule{
			{toUplink, packetSourceIn("nat"), masquerade},
		}},
	}}
}

// planHostRules returns the table that root's veth uplink needs in the host's namespace.
func planHostRules(name, link string, subnet netip.Prefix) table {
	source := packetSourceWithin(subnet)
	return table{family: nftables.TableFamilyIPv4, name: name, chains: []chain{
		{name: "forward", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookForward, priority: 0, rules: []rule{
			{inInterface(link), source, accept},
			{outInterface(link), establishedOrRelated, accept},
			{outInterface(link), drop},
			{inInterface(link), drop},
		}},
		{name: "input", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookInput, priority: 0, rules: []rule{
			{inInterface(link), establishedOrRelated, accept},
			{inInterface(link), drop},
		}},
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
