package network

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
)

const (
	hostLinkPrefix  = "bgr-"
	hostTablePrefix = "banger-host-"
)

// veth is root's uplink: a pair of interfaces whose host end takes part in the host's routing and is masqueraded there.
// The host has of it the link; for IPv4, and for IPv6 where it can (see check6), an address, a route, an nftables table and
// forwarding turned on; and two rules in each foreign chain that drops forwarded packets.
type veth struct {
	link   string
	table  string
	subnet netip.Prefix
	size   int    // MTU in bytes
	why6   string // UplinkUp, or why it does not carry IPv6
	shut   error  // why the host's firewall may drop what machines send
}

func newVeth(d dir, subnet netip.Prefix) *veth {
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte(d)))[:8]
	return &veth{link: hostLinkPrefix + hash, table: hostTablePrefix + hash, subnet: subnet, size: hostMTU(), why6: UplinkUp}
}

// check6 reports why the uplink cannot carry IPv6.
func (v *veth) check6(holder *holder) error {
	if v.size < minMTU6 {
		return fmt.Errorf("links of %d bytes are too small for IPv6", v.size)
	}
	if err := holder.check6(); err != nil {
		return err
	}
	return checkForwarding6()
}

// families are the versions of IP that the uplink carries.
func (v *veth) families() []*family {
	return state{IPv6: true, Outside6: v.why6 == UplinkUp}.outside()
}

// startVeth makes the pair between the host and the holder's namespace, in place of what a killed keeper left.
func startVeth(d dir, subnet netip.Prefix, holder *holder, log *slog.Logger) (*veth, error) {
	v := newVeth(d, subnet)
	if err := v.check6(holder); err != nil {
		v.why6 = err.Error()
	}
	if err := v.removeHostSide(); err != nil {
		return nil, err
	}
	if err := v.setUp(holder.pid); err != nil {
		return nil, errors.Join(err, v.close())
	}
	// Machines reach each other all the same, and the table of another may belong to its process alone.
	if v.shut = admit(v.link); v.shut != nil {
		log.Warn("the host's firewall may drop what machines send", "err", v.shut)
	}
	return v, nil
}

func (v *veth) mtu() int { return v.size }

func (v *veth) state6() string { return v.why6 }

func (v *veth) state() string {
	if l, err := netlink.LinkByName(v.link); err != nil || l.Attrs().Flags&net.FlagUp == 0 {
		return "down: " + v.link + " is missing or down"
	}
	if v.shut != nil {
		return "the host's firewall may drop what machines send: " + v.shut.Error()
	}
	return UplinkUp
}

func (v *veth) setUp(holder int) error {
	var tables []table
	for _, f := range v.families() {
		tables = append(tables, planHostRules(f, v.table, v.link, v.subnet))
	}
	if err := applyRules(tables); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.link, v.size
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: uplinkName, PeerMTU: uint32(v.size), PeerNamespace: netlink.NsPid(holder)}
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
func (v *veth) join(pair netlink.Link, f *family) error {
	if f == ip6 {
		if err := set6(v.link+"/disable_ipv6", "0"); err != nil { // whatever the host has for new links
			return err
		}
	}
	own, subnet := f.of(hostEnd(v.subnet)), f.net(v.subnet)
	if err := netlink.AddrAdd(pair, &netlink.Addr{IPNet: hostNet(own), Flags: f.addressFlags}); err != nil {
		return fmt.Errorf("add address of %s: %w", v.link, err)
	}
	via := Gateway(v.subnet) // ARP answers for all addresses of the namespace
	if f == ip6 {
		via = Address6(uplinkEnd(v.subnet))
	}
	route := &netlink.Route{
		LinkIndex: pair.Attrs().Index, Dst: ipNet(subnet.Addr(), subnet.Bits()),
		Gw: via.AsSlice(), Src: own.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("add route to %s: %w", subnet, err)
	}
	return turnOnForwarding(f)
}

// close removes everything of the uplink from the host; what is gone already is no error.
func (v *veth) close() error {
	err := errors.Join(v.removeHostSide(), restoreForwarding(ip4))
	if hasIPv6() {
		err = errors.Join(err, restoreForwarding(ip6))
	}
	return err
}

func (v *veth) removeHostSide() error {
	errs := []error{unadmit(v.link)}
	if l, err := netlink.LinkByName(v.link); err == nil {
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete %s: %w", v.link, err))
		}
	}
	errs = append(errs, removeTable(nftables.TableFamilyIPv4, v.table))
	if hasIPv6() { // it may have carried that when it was made
		errs = append(errs, removeTable(nftables.TableFamilyIPv6, v.table))
	}
	return errors.Join(errs...)
}

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
			return l.Attrs().MTU
		}
	}
	return 1500
}
