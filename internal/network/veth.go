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
// The host has of it the link, its address and one route, one nftables table, two rules in each foreign chain that drops
// forwarded packets, and forwarding turned on.
type veth struct {
	link   string
	table  string
	subnet netip.Prefix
	size   int // MTU in bytes
}

func newVeth(d dir, subnet netip.Prefix) *veth {
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte(d)))[:8]
	return &veth{link: hostLinkPrefix + hash, table: hostTablePrefix + hash, subnet: subnet, size: hostMTU()}
}

// startVeth makes the pair between the host and the holder's namespace, in place of what a killed keeper left.
func startVeth(d dir, subnet netip.Prefix, holder int, log *slog.Logger) (*veth, error) {
	v := newVeth(d, subnet)
	if err := v.removeHostSide(); err != nil {
		return nil, err
	}
	if err := v.setUp(holder); err != nil {
		return nil, errors.Join(err, v.close())
	}
	// Machines reach each other all the same, and the table of another may belong to its process alone.
	if err := admit(v.link); err != nil {
		log.Warn("the host's firewall may drop what machines send", "err", err)
	}
	return v, nil
}

func (v *veth) mtu() int { return v.size }

func (v *veth) state() string {
	if l, err := netlink.LinkByName(v.link); err != nil || l.Attrs().Flags&net.FlagUp == 0 {
		return "down: " + v.link + " is missing or down"
	}
	return "up"
}

func (v *veth) setUp(holder int) error {
	if err := applyRules([]table{planHostRules(v.table, v.link, v.subnet)}); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.link, v.size
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: uplinkName, PeerMTU: uint32(v.size), PeerNamespace: netlink.NsPid(holder)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("add veth %s: %w", v.link, err)
	}
	if err := netlink.AddrAdd(pair, &netlink.Addr{IPNet: ipNet(hostEnd(v.subnet), 32)}); err != nil {
		return fmt.Errorf("add address of %s: %w", v.link, err)
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return fmt.Errorf("set %s up: %w", v.link, err)
	}
	route := &netlink.Route{
		LinkIndex: pair.Attrs().Index, Dst: ipNet(v.subnet.Addr(), v.subnet.Bits()),
		Gw: Gateway(v.subnet).AsSlice(), Src: hostEnd(v.subnet).AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("add route to %s: %w", v.subnet, err)
	}
	return turnOnForwarding()
}

// close removes everything of the uplink from the host; what is gone already is no error.
func (v *veth) close() error {
	return errors.Join(v.removeHostSide(), restoreForwarding())
}

func (v *veth) removeHostSide() error {
	errs := []error{unadmit(v.link)}
	if l, err := netlink.LinkByName(v.link); err == nil {
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete %s: %w", v.link, err))
		}
	}
	return errors.Join(append(errs, removeTable(nftables.TableFamilyIPv4, v.table))...)
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

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}
