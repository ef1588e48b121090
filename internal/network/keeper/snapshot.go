package keeper

import (
	"net/netip"
	"strings"

	"banger/internal/network"
	"banger/internal/network/nft"
	"banger/internal/network/plan"
)

// snapshot is the network's state at one moment, as the holder has made it. It never changes: those
// who read it (the name server, status) share it, and wait for nobody who makes the next one.
type snapshot struct {
	plan.State
	byName    map[string]netip.Addr // in lower case
	byAddress map[netip.Addr]string // of either version of IP
}

func newSnapshot(s plan.State) *snapshot {
	now := &snapshot{State: s, byName: map[string]netip.Addr{}, byAddress: map[netip.Addr]string{}}
	for _, p := range s.Endpoints {
		now.byName[strings.ToLower(p.Name)] = p.Address
		for _, f := range s.Families() {
			now.byAddress[f.Of(p.Address)] = p.Name
		}
	}
	return now
}

// subnets are those whose addresses VMs have.
func (s *snapshot) subnets() (all []netip.Prefix) {
	for _, f := range s.Families() {
		all = append(all, f.Net(s.Subnet))
	}
	return all
}

// lookup returns the addresses of the VM with a name.
func (s *snapshot) lookup(name string) (addresses []netip.Addr) {
	at, ok := s.byName[strings.ToLower(name)]
	if !ok {
		return nil
	}
	for _, f := range s.Families() {
		addresses = append(addresses, f.Of(at))
	}
	return addresses
}

// tap tells a VMM of an endpoint's tap.
func (s *snapshot) tap(p network.Endpoint) network.Tap {
	tap := network.Tap{Name: p.TapName(), MTU: s.MTU}
	if s.IPv6 {
		tap.Address6 = netip.PrefixFrom(network.Address6(p.Address), nft.IP6.Net(s.Subnet).Bits())
	}
	if s.Outside6 {
		tap.Gateway6 = network.Address6(network.Gateway(s.Subnet))
	}
	return tap
}
