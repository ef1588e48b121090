// Package network gives the VMs of one home folder their network: a network namespace with a
// bridge, a tap for each VM, nftables rules that decide what a VM may reach, an uplink and a DNS
// server on the gateway's address. IPv6 goes along with IPv4: its addresses are made of those, its
// rules are the same, and it leads out where the host has it.
//
// Two processes hold it, both started by Client.Ensure, both outliving the daemon:
//
//   - the keeper (package keeper) stays in the host's namespaces. It owns the lock, the control
//     socket, the uplink (package uplink: pasta for an ordinary user, a veth pair for root), the
//     relay that carries TCP beside it (package relay), and the DNS server (package dns), which
//     asks the host's resolvers as the host does, also those on its loopback, and hears the guests
//     through sockets made inside. One change at a time goes down from it to all that act on it;
//     who only reads never waits for one.
//   - the holder (package holder, which the keeper asks through package namespace) lives inside the
//     network namespace (and a user namespace when rootless) and keeps it alive. It makes of links
//     and rules what the keeper tells it (package plan, in the words of package nft), and remembers
//     that: a keeper that died is replaced by one that finds the holder and its state again, and no
//     VM loses its tap. DNS queries and new connections wait meanwhile, in sockets and devices that
//     the holder keeps open.
//
// A holder that dies takes the keeper with it. The namespace lives on in the VMMs: the next keeper
// starts a holder in there, with the endpoints that were noted, and the VMs have their taps still.
//
// This package itself is the daemon's end, Client, and what all of them share: addresses, policies,
// names of files.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
)

// DefaultSubnet is where the VMs live unless the user says otherwise.
var DefaultSubnet = netip.MustParsePrefix("172.30.0.0/16")

// Domain is the DNS domain of the VMs' names.
const Domain = "vm"

// ErrNotFound says that no endpoint has that id.
var ErrNotFound = errors.New("no such endpoint")

// ErrServed says that another keeper serves the home.
var ErrServed = errors.New("another process keeps this home's network")

// Policy is what a VM may reach. It can change while the VM runs.
type Policy struct {
	NAT      bool `json:"nat"`      // reaches the outside; otherwise other VMs and the gateway's DNS alone
	Isolated bool `json:"isolated"` // reaches no other VM, and none reaches it
	// HostServices are TCP ports of the host's loopback that it reaches at the gateway's address,
	// see CheckHostServices.
	HostServices []int `json:"host_services,omitempty"`
}

// HostLinkPrefix is how the names of root's uplinks begin on the host.
const HostLinkPrefix = "bgr-"

// maxHostServices is how many of the host's ports one VM may reach.
const maxHostServices = 64

// CheckHostServices reports why ports of the host cannot be reached at the gateway.
func CheckHostServices(ports []int) error {
	if len(ports) > maxHostServices {
		return fmt.Errorf("%d host services: at most %d", len(ports), maxHostServices)
	}
	for i, port := range ports {
		switch {
		case port < 1 || port > 65535:
			return fmt.Errorf("host service %d is no TCP port", port)
		case port == 53:
			return errors.New("host service 53: the gateway's own name server has that port")
		case slices.Contains(ports[:i], port):
			return fmt.Errorf("host service %d is named twice", port)
		}
	}
	return nil
}

// Endpoint is a VM's place on the network.
type Endpoint struct {
	ID      string     `json:"id"`      // the VM's, never reused
	Name    string     `json:"name"`    // a DNS label; the VM is found as <name>.vm
	MAC     string     `json:"mac"`     // as MAC gives it
	Address netip.Addr `json:"address"` // of the subnet, see NextAddress
	Policy
}

// Tap is the interface that a VMM opens, inside the namespaces (see Client.Enter).
type Tap struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"` // bytes; the guest's interface should have the same

	Address6 netip.Prefix `json:"address6,omitzero"` // the guest's; zero when the network has no IPv6
	Gateway6 netip.Addr   `json:"gateway6,omitzero"` // zero when IPv6 has no way out
}

// UplinkUp is what Status says of an uplink that works.
const UplinkUp = "up"

// Status tells what the network is doing.
type Status struct {
	HolderPID int          `json:"holder_pid"` // its namespaces are the network's
	Rootless  bool         `json:"rootless"`
	Subnet    netip.Prefix `json:"subnet"`
	Gateway   netip.Addr   `json:"gateway"`
	MTU       int          `json:"mtu"`
	Uplink    string       `json:"uplink"`  // UplinkUp, or why it is down
	IPv6      bool         `json:"ipv6"`    // VMs have it between each other
	Relay     bool         `json:"relay"`   // carries TCP in the uplink's place
	Uplink6   string       `json:"uplink6"` // UplinkUp, or why IPv6 has no way out
	Endpoints []Endpoint   `json:"ports"`   // by id
}

var labelPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// IsLabel reports whether a VM may have the name: a DNS label, RFC 1123 section 2.1, lower case
// only.
func IsLabel(name string) bool { return labelPattern.MatchString(name) }

// Check reports what is wrong with an endpoint of this subnet.
func (p Endpoint) Check(subnet netip.Prefix) error {
	if p.ID == "" || len(p.ID) > 128 {
		return fmt.Errorf("endpoint id %.140q must have 1 to 128 bytes", p.ID)
	}
	if !IsLabel(p.Name) {
		return fmt.Errorf("endpoint name %.70q is no DNS label", p.Name)
	}
	mac, err := net.ParseMAC(p.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() != p.MAC {
		return fmt.Errorf("endpoint MAC %.30q is no unicast address in the form 02:00:00:00:00:01", p.MAC)
	}
	if !usable(subnet, p.Address) {
		return fmt.Errorf("endpoint address %s is not for a machine of %s", p.Address, subnet)
	}
	if p.MAC == MAC(Gateway(subnet)) {
		return errors.New("endpoint MAC is the gateway's")
	}
	return CheckHostServices(p.HostServices)
}

// TapName derives the tap's name (IFNAMSIZ allows 15 bytes) from the address, which no two
// endpoints share.
func (p Endpoint) TapName() string {
	a := p.Address.As4()
	return fmt.Sprintf("tap%02x%02x%02x%02x", a[0], a[1], a[2], a[3])
}
