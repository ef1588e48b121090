package plan

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"

	"banger/internal/network"
	"banger/internal/network/nft"
)

// tableName is that of our tables: nftables needs one for frames on the bridge and one for routed
// packets.
const tableName = "banger"

const (
	// gatewayPackets is how many packets a VM may send to the gateway itself, in a second and at a
	// stroke.
	gatewayPackets = 250
	// MaxConns is how many connections a VM may have at once beyond the bridge, which the kernel
	// remembers for all VMs in one table, and pasta with a socket each.
	MaxConns = 4096
)

// Rules returns the tables inside the namespace. They lean on each other: the bridge table lets a
// frame in only with its endpoint's own MAC and address, therefore the routed tables may tell VMs
// by their address.
func Rules(s State) []nft.Table {
	s.Endpoints = slices.SortedFunc(slices.Values(s.Endpoints),
		func(a, b network.Endpoint) int { return a.Address.Compare(b.Address) })
	tables := []nft.Table{bridgeTable(s)}
	for _, f := range s.Families() {
		tables = append(tables, routedTable(f, s))
	}
	return tables
}

// bridgeTable rules the frames. Types other than ARP and IP never enter, tagged ones neither: the
// type is read from the frame, where the kernel shows the tag.
func bridgeTable(s State) nft.Table {
	isolated := nft.Set{Name: "isolated", Kind: nft.KindInterface}
	sources := nft.Set{Name: "sources", Kind: nft.IP4.Sources}
	sources6 := nft.Set{Name: "sources6", Kind: nft.IP6.Sources}
	for _, p := range s.Endpoints {
		mac, _ := net.ParseMAC(p.MAC) // the endpoint has been checked
		sources.Elements = append(sources.Elements, nft.SourceElement(p.TapName(), mac, p.Address))
		for _, a := range []netip.Addr{network.Address6(p.Address), network.LinkLocal(mac)} {
			sources6.Elements = append(sources6.Elements, nft.SourceElement(p.TapName(), mac, a))
		}
		if p.Isolated {
			isolated.Elements = append(isolated.Elements, nft.InterfaceElement(p.TapName()))
		}
	}
	t := nft.Table{Family: nftables.TableFamilyBridge, Name: tableName, Sets: []nft.Set{sources, isolated}}
	enter := []nft.Rule{
		{nft.IP4.EtherType, nft.IP4.SourceIn("sources"), nft.Accept},
		{nft.EtherARP, nft.ARPIPv4, nft.ArpSourceIn("sources"), nft.SenderIn("sources"), nft.Accept},
	}
	// A packet to another VM sent to the gateway's MAC would go round the forward chain by being
	// routed back.
	var input []nft.Rule
	for _, f := range s.Families() {
		own, end := f.Of(network.Gateway(s.Subnet)), f.Of(network.HostEnd(s.Subnet))
		others := nft.Destination(f.Net(s.Subnet))
		input = append(input, nft.Rule{
			f.EtherType, others, nft.DestinationNot(own), nft.DestinationNot(end), nft.Drop,
		})
	}
	if s.IPv6 {
		t.Sets = append(t.Sets, sources6)
		from := nft.IP6.SourceIn("sources6")
		enter = append(
			enter,
			nft.Rule{nft.IP6.EtherType, from, nft.NotICMP6, nft.Accept},
			nft.Rule{nft.IP6.EtherType, from, nft.ErrorOrEcho, nft.Accept},
			nft.Rule{nft.IP6.EtherType, from, nft.NeighbourSolicit, nft.Accept},
			nft.Rule{nft.IP6.EtherType, from, nft.NeighbourAdvert, nft.AdvertisedIn("sources6"), nft.Accept},
		)
		linkLocal := nft.Destination(netip.MustParsePrefix("fe80::/10")) // the bridge has none
		input = append(input, nft.Rule{nft.IP6.EtherType, linkLocal, nft.Drop})
	}
	t.Chains = []nft.Chain{
		{
			Name:     "prerouting",
			Kind:     nftables.ChainTypeFilter,
			Hook:     *nftables.ChainHookPrerouting,
			Priority: -200,
			Drop:     true,
			Rules:    enter,
		},
		{
			Name:     "forward",
			Kind:     nftables.ChainTypeFilter,
			Hook:     *nftables.ChainHookForward,
			Priority: -200,
			Rules: []nft.Rule{
				{nft.InInterfaceIn("isolated"), nft.Drop},
				{nft.OutInterfaceIn("isolated"), nft.Drop},
			},
		},
		{Name: "input", Kind: nftables.ChainTypeFilter, Hook: *nftables.ChainHookInput, Priority: -200, Rules: input},
	}
	return t
}

// routedSets are the sets of a routed table.
func routedSets(f *nft.Family, s State) []nft.Set {
	nat, host := nft.Set{Name: "nat", Kind: f.Addresses}, nft.Set{Name: "host", Kind: f.Addresses}
	services := nft.Set{Name: "services", Kind: f.Services}
	for _, p := range s.Endpoints {
		if p.NAT {
			nat.Elements = append(nat.Elements, nft.AddressElement(f.Of(p.Address)))
		}
		for _, port := range p.HostServices {
			services.Elements = append(services.Elements, nft.ServiceElement(p.Address, port))
		}
	}
	addresses := s.HostAddresses
	if f == nft.IP6 {
		addresses = s.HostAddresses6
	}
	for _, a := range slices.Compact(slices.SortedFunc(slices.Values(addresses), netip.Addr.Compare)) {
		host.Elements = append(host.Elements, nft.AddressElement(a))
	}
	sets := []nft.Set{nat, host}
	if f == nft.IP4 {
		sets = append(sets, services)
	}
	sets = append(sets, nft.Set{Name: "asking", Kind: f.Addresses, Dynamic: true, Timeout: time.Minute},
		nft.Set{Name: "conns", Kind: f.Addresses, Dynamic: true})
	if s.Relay {
		sets = append(sets, nft.Set{Name: "opening", Kind: f.Addresses, Dynamic: true, Timeout: time.Minute})
	}
	return sets
}

// routedTable rules what goes to the gateway and beyond it. Rules that cut stand before those that
// let established connections on, so a change applies to these too.
func routedTable(f *nft.Family, s State) nft.Table {
	fromVM, toVM := nft.InInterface(Bridge), nft.OutInterface(Bridge)
	fromUplink, toUplink := nft.InInterface(Uplink), nft.OutInterface(Uplink)
	host := f.Of(network.HostEnd(s.Subnet))
	fromHost, toHost := nft.PacketSource(host), nft.Destination(nft.Single(host))
	forward := []nft.Rule{
		// With br_netfilter in the kernel bridged packets come by here; the bridge table has judged
		// them.
		{fromVM, toVM, nft.Accept},
		{fromVM, toHost, nft.EstablishedOrRelated, nft.Accept},
	}
	for _, p := range append(slices.Clone(f.Unroutable), f.Net(s.Subnet)) {
		forward = append(forward, nft.Rule{fromVM, nft.Destination(p), nft.Drop})
	}
	forward = append(forward, nft.Rule{fromVM, f.DestinationIn("host"), nft.Drop})
	input := gatewayRules(f, s.Subnet)
	var chains []nft.Chain
	if s.Relay {
		chains = []nft.Chain{relayRules(f, s.Subnet)}
		input = append(RelayInput(), input...)
		forward = append(forward, nft.Rule{fromVM, nft.OutInterface(SYNName), f.SourceInNAT(), nft.Accept})
	}
	forward = append(
		forward,
		nft.Rule{fromVM, toUplink, f.SourceInNAT(), f.OverConns("conns", MaxConns), nft.Drop},
		nft.Rule{fromVM, toUplink, f.SourceInNAT(), nft.Accept},
		nft.Rule{fromUplink, toVM, nft.EstablishedOrRelated, nft.Accept},
		nft.Rule{fromUplink, toVM, fromHost, nft.Accept},
	)
	chains = append(
		chains,
		nft.Chain{
			Name:     "input",
			Kind:     nftables.ChainTypeFilter,
			Hook:     *nftables.ChainHookInput,
			Priority: 0,
			Drop:     true,
			Rules:    input,
		},
		nft.Chain{
			Name:     "forward",
			Kind:     nftables.ChainTypeFilter,
			Hook:     *nftables.ChainHookForward,
			Priority: 0,
			Drop:     true,
			Rules:    forward,
		},
		nft.Chain{
			Name:     "postrouting",
			Kind:     nftables.ChainTypeNAT,
			Hook:     *nftables.ChainHookPostrouting,
			Priority: 100,
			Rules: []nft.Rule{
				{toUplink, f.SourceInNAT(), nft.Masquerade},
			},
		},
	)
	return nft.Table{Family: f.Table, Name: tableName, Sets: routedSets(f, s), Chains: chains}
}

// gatewayRules say what the gateway takes for itself. Names and services are had at its IPv4
// address; by IPv6 it only answers echo requests.
func gatewayRules(f *nft.Family, subnet netip.Prefix) []nft.Rule {
	fromVM, fromUplink := nft.InInterface(Bridge), nft.InInterface(Uplink)
	toGateway := nft.Destination(nft.Single(f.Of(network.Gateway(subnet))))
	fromHost := nft.PacketSource(f.Of(network.HostEnd(subnet)))
	// A flood must not fill the name server's queue, which all VMs share.
	flood := nft.Rule{fromVM, toGateway, f.OverRate("asking", gatewayPackets, gatewayPackets), nft.Drop}
	ping := nft.Rule{fromVM, toGateway, f.EchoRequest, nft.Accept}
	established := nft.Rule{fromUplink, nft.EstablishedOrRelated, nft.Accept}
	if f == nft.IP6 {
		return []nft.Rule{
			{nft.InInterface("lo"), nft.Accept},
			{nft.NeighbourSolicit, nft.Accept},
			{nft.NeighbourAdvert, nft.Accept},
			flood, ping, established,
		}
	}
	return []nft.Rule{
		{nft.InInterface("lo"), nft.Accept},
		// Whole connections, so before what counts packets.
		{fromVM, toGateway, nft.ServiceIn("services"), f.OverConns("conns", MaxConns), nft.Drop},
		{fromVM, toGateway, nft.ServiceIn("services"), nft.Accept},
		flood,
		{fromVM, toGateway, nft.UDPTo53, nft.Accept},
		{fromVM, toGateway, nft.TCPTo53, nft.Accept},
		ping,
		established,
		{fromUplink, fromHost, toGateway, nft.UDPTo53, nft.Accept},
		{fromUplink, fromHost, toGateway, nft.TCPTo53, nft.Accept},
	}
}
