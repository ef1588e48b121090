package plan

import (
	"net/netip"

	"banger/internal/network"
	"banger/internal/network/nft"
)

// Names of what lies inside the namespace.
const (
	Bridge = "br0"
	Uplink = "up0"
)

// State is all that the holder makes links and rules of.
type State struct {
	Subnet netip.Prefix `json:"subnet"`
	MTU    int          `json:"mtu"`
	// the uplink is one, else pasta, which sets up its end itself
	Veth          bool               `json:"veth"`
	Endpoints     []network.Endpoint `json:"ports"`          // by id
	HostAddresses []netip.Addr       `json:"host_addresses"` // IPv4, which no VM may reach through the uplink

	IPv6           bool         `json:"ipv6,omitempty"`            // VMs have it between each other
	Relay          bool         `json:"relay,omitempty"`           // TCP to the world goes by the relay
	Outside6       bool         `json:"outside6,omitempty"`        // the uplink has it too
	HostAddresses6 []netip.Addr `json:"host_addresses6,omitempty"` // as HostAddresses
}

// Families are the versions of IP that the network carries.
func (s State) Families() []*nft.Family { return nft.Families(s.IPv6) }

// Outside are the versions of IP that the uplink carries.
func (s State) Outside() []*nft.Family { return nft.Families(s.IPv6 && s.Outside6) }
