package plan

import (
	"net/netip"

	"github.com/google/nftables"

	"banger/internal/network/nft"
)

// What leads the VMs' TCP to the relay (see relay.go), all inside the namespace: two tun devices,
// marks that the rules give to packets, and a routing table for each mark.
const (
	SYNName   = "syn0"   // the relay reads the first packets of connections here, and gives back those it lets in
	ResetName = "reset0" // the relay gives back those that it does not

	relayPort = 15001 // of its listeners on loopback; no other socket there has it

	MarkLocal = 101 // is delivered in the namespace, whatever its destination
	MarkSYN   = 102 // goes to SYNName

	// openingPackets is how many connections a VM may begin in a second; a flood must not fill
	// SYNName's queue.
	openingPackets = 5000
	// SYNQueue is how many packets wait at SYNName.
	SYNQueue = 4096
)

// RelayAddress is where the relay listens.
func RelayAddress(f *nft.Family) netip.AddrPort {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if f == nft.IP6 {
		loopback = netip.IPv6Loopback()
	}
	return netip.AddrPortFrom(loopback, relayPort)
}

// relayRules tell the VMs' TCP to the world from all else. What they leave alone, the forward chain
// drops or lets pass.
func relayRules(f *nft.Family, subnet netip.Prefix) nft.Chain {
	fromVM, fromSYN := nft.InInterface(Bridge), nft.InInterface(SYNName)
	rules := []nft.Rule{{fromVM, nft.Destination(f.Net(subnet)), nft.Accept}}
	for _, p := range f.Unroutable {
		rules = append(rules, nft.Rule{fromVM, nft.Destination(p), nft.Accept})
	}
	rules = append(
		rules,
		nft.Rule{fromVM, f.DestinationIn("host"), nft.Accept},
		nft.Rule{fromVM, f.SourceInNAT(), nft.Opening, f.OverRate("opening", openingPackets, openingPackets), nft.Drop},
		nft.Rule{fromVM, f.SourceInNAT(), nft.Opening, nft.SetMark(MarkSYN), nft.Accept},
		nft.Rule{fromVM, f.SourceInNAT(), nft.TCP, nft.TProxy(f, RelayAddress(f)), nft.SetMark(MarkLocal), nft.Accept},
		nft.Rule{fromSYN, nft.TCP, nft.TProxy(f, RelayAddress(f)), nft.SetMark(MarkLocal), nft.Accept},
		nft.Rule{nft.InInterface(ResetName), nft.TCP, nft.SetMark(MarkLocal), nft.Accept},
	)
	return nft.Chain{
		Name:     "relay",
		Kind:     nftables.ChainTypeFilter,
		Hook:     *nftables.ChainHookPrerouting,
		Priority: *nftables.ChainPriorityMangle,
		Rules:    rules,
	}
}

// RelayInput are the first rules for what ends in the namespace.
func RelayInput() []nft.Rule {
	return []nft.Rule{{nft.InInterface(ResetName), nft.TCP, nft.RejectTCP}, {nft.Marked(MarkLocal), nft.Accept}}
}
