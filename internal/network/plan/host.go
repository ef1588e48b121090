package plan

import (
	"net/netip"

	"github.com/google/nftables"

	"banger/internal/network/nft"
)

// HostRules returns the table that root's veth uplink needs in the host's namespace for a version
// of IP.
func HostRules(f *nft.Family, name, link string, subnet netip.Prefix) nft.Table {
	source := nft.PacketSourceWithin(f.Net(subnet))
	input := []nft.Rule{{nft.InInterface(link), nft.EstablishedOrRelated, nft.Accept}}
	if f == nft.IP6 {
		input = append(input, nft.Rule{nft.InInterface(link), nft.NeighbourSolicit, nft.Accept},
			nft.Rule{nft.InInterface(link), nft.NeighbourAdvert, nft.Accept})
	}
	return nft.Table{Family: f.Table, Name: name, Chains: []nft.Chain{
		{
			Name:     "forward",
			Kind:     nftables.ChainTypeFilter,
			Hook:     *nftables.ChainHookForward,
			Priority: 0,
			Rules: []nft.Rule{
				{nft.InInterface(link), source, nft.Accept},
				{nft.OutInterface(link), nft.EstablishedOrRelated, nft.Accept},
				{nft.OutInterface(link), nft.Drop},
				{nft.InInterface(link), nft.Drop},
			},
		},
		{
			Name:     "input",
			Kind:     nftables.ChainTypeFilter,
			Hook:     *nftables.ChainHookInput,
			Priority: 0,
			Rules:    append(input, nft.Rule{nft.InInterface(link), nft.Drop}),
		},
		{
			Name:     "postrouting",
			Kind:     nftables.ChainTypeNAT,
			Hook:     *nftables.ChainHookPostrouting,
			Priority: 100,
			Rules: []nft.Rule{
				{nft.OutInterfaceNot(link), source, nft.Masquerade},
			},
		},
	}}
}
