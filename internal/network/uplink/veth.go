package uplink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/nft"
	"banger/internal/network/plan"
)

const hostTablePrefix = "banger-host-"

// veth is root's uplink: a pair of interfaces whose host end takes part in the host's routing and
// is masqueraded there. The host has of it the link; for IPv4, and for IPv6 where it can (see
// check6), an address, a route, an nftables table and forwarding turned on; and two rules in each
// foreign chain that drops forwarded packets.
type veth struct {
	link     string
	table    string
	subnet   netip.Prefix
	size     int    // MTU in bytes
	why6     string // UplinkUp, or why it does not carry IPv6
	firewall error  // why the host's firewall may drop what machines send
}

func newVeth(d network.Dir, subnet netip.Prefix) *veth {
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte(d)))[:8]
	return &veth{
		link:   network.HostLinkPrefix + hash,
		table:  hostTablePrefix + hash,
		subnet: subnet,
		size:   hostMTU(),
		why6:   network.UplinkUp,
	}
}

// check6 reports why the uplink cannot carry IPv6.
func (v *veth) check6(namespace bool) error {
	if v.size < MinMTU6 {
		return fmt.Errorf("links of %d bytes are too small for IPv6", v.size)
	}
	if err := check6(namespace); err != nil {
		return err
	}
	return checkForwarding6()
}

// families are the versions of IP that the uplink carries.
func (v *veth) families() []*nft.Family {
	return nft.Families(v.why6 == network.UplinkUp)
}

// startVeth makes the pair between the host and the holder's namespace, in place of what a killed
// keeper left.
func startVeth(c Config, log *slog.Logger) (*veth, error) {
	v := newVeth(c.Dir, c.Subnet)
	if err := v.check6(c.IPv6); err != nil {
		v.why6 = err.Error()
	}
	if err := v.removeHostSide(); err != nil {
		return nil, err
	}
	if err := v.setUp(c.Holder); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	// Machines reach each other all the same, and the table of another may belong to its process
	// alone.
	if v.firewall = allowForward(v.link); v.firewall != nil {
		log.Warn("the host's firewall may drop what machines send", "err", v.firewall)
	}
	return v, nil
}

// MTU is what the machines' links have, in bytes.
func (v *veth) MTU() int { return v.size }

// State6 is UplinkUp, or why IPv6 has no way out.
func (v *veth) State6() string { return v.why6 }

// State is UplinkUp, or why it is down.
func (v *veth) State() string {
	if l, err := netlink.LinkByName(v.link); err != nil || l.Attrs().Flags&net.FlagUp == 0 {
		return "down: " + v.link + " is missing or down"
	}
	if v.firewall != nil {
		return "the host's firewall may drop what machines send: " + v.firewall.Error()
	}
	return network.UplinkUp
}

func (v *veth) setUp(holder int) error {
	var tables []nft.Table
	for _, f := range v.families() {
		tables = append(tables, plan.HostRules(f, v.table, v.link, v.subnet))
	}
	if err := nft.Apply(tables); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.link, v.size
	pair := &netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      plan.Uplink,
		PeerMTU:       uint32(v.size),
		PeerNamespace: netlink.NsPid(holder),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("add veth %s: %w", v.link, err)
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return fmt.Errorf("set %s up: %w", v.link, err)
	}
	for _, f := range v.families() {
		if err := v.join(pair, f); err != nil {
			return err
		}
	}
	return nil
}

// join makes the host's end one of a version of IP.
func (v *veth) join(pair netlink.Link, f *nft.Family) error {
	if f == nft.IP6 {
		if err := nft.Set6(v.link+"/disable_ipv6", "0"); err != nil { // whatever the host has for new links
			return err
		}
	}
	own, subnet := f.Of(network.HostEnd(v.subnet)), f.Net(v.subnet)
	if err := netlink.AddrAdd(pair, &netlink.Addr{IPNet: nft.HostNet(own), Flags: f.AddressFlags}); err != nil {
		return fmt.Errorf("add address of %s: %w", v.link, err)
	}
	via := network.Gateway(v.subnet) // ARP answers for all addresses of the namespace
	if f == nft.IP6 {
		via = network.Address6(network.UplinkEnd(v.subnet))
	}
	route := &netlink.Route{
		LinkIndex: pair.Attrs().Index, Dst: nft.IPNet(subnet.Addr(), subnet.Bits()),
		Gw: via.AsSlice(), Src: own.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("add route to %s: %w", subnet, err)
	}
	return turnOnForwarding(f)
}

// Close removes everything of the uplink from the host; what is gone already is no error.
func (v *veth) Close() error {
	err := errors.Join(v.removeHostSide(), restoreForwarding(nft.IP4))
	if nft.HasIPv6() {
		err = errors.Join(err, restoreForwarding(nft.IP6))
	}
	return err
}

func (v *veth) removeHostSide() error {
	errs := []error{disallowForward(v.link)}
	if l, err := netlink.LinkByName(v.link); err == nil {
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete %s: %w", v.link, err))
		}
	}
	errs = append(errs, nft.Remove(nftables.TableFamilyIPv4, v.table))
	if nft.HasIPv6() { // it may have carried that when it was made
		errs = append(errs, nft.Remove(nftables.TableFamilyIPv6, v.table))
	}
	return errors.Join(errs...)
}

// maxMTU is the most that a tap takes: 65,535 without its Ethernet header (drivers/net/tun.c), in
// whole words.
const maxMTU = 65520

// hostMTU is that of the link with the host's default route, or Ethernet's.
func hostMTU() int {
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return 1500
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return min(l.Attrs().MTU, maxMTU)
		}
	}
	return 1500
}
