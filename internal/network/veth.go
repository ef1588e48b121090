package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	hostLinkPrefix = "bgr-"
	forwardSwitch  = "/proc/sys/net/ipv4/ip_forward"
)

// veth is root's uplink: a pair of interfaces whose host end takes part in the host's routing and is masqueraded there.
// The host has of it the link, its address and one route, one nftables table, and forwarding turned on.
type veth struct {
	d      dir
	link   string
	table  string
	subnet netip.Prefix
	size   int // MTU in bytes
}

func newVeth(d dir, subnet netip.Prefix) *veth {
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte(d)))[:8]
	return &veth{d: d, link: hostLinkPrefix + hash, table: "banger-host-" + hash, subnet: subnet, size: hostMTU()}
}

// startVeth makes the pair between the host and the holder's namespace, in place of what a killed keeper left.
func startVeth(d dir, subnet netip.Prefix, holder int) (*veth, error) {
	v := newVeth(d, subnet)
	if err := v.removeHostSide(); err != nil {
		return nil, err
	}
	if err := v.setUp(holder); err != nil {
		return nil, errors.Join(err, v.close())
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
	return v.turnOnForwarding()
}

// close removes everything of the uplink from the host; what is gone already is no error.
func (v *veth) close() error {
	return errors.Join(v.removeHostSide(), v.restoreForwarding())
}

func (v *veth) removeHostSide() error {
	var errs []error
	if l, err := netlink.LinkByName(v.link); err == nil {
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete %s: %w", v.link, err))
		}
	}
	return errors.Join(append(errs, removeTable(nftables.TableFamilyIPv4, v.table))...)
}

// turnOnForwarding notes on disk that it was off before, for the keeper that ends.
func (v *veth) turnOnForwarding() error {
	now, err := os.ReadFile(forwardSwitch)
	if err != nil {
		return fmt.Errorf("read forwarding: %w", err)
	}
	if strings.TrimSpace(string(now)) != "0" {
		return nil
	}
	if err := os.WriteFile(v.d.forwardingNote(), nil, 0o600); err != nil {
		return fmt.Errorf("note forwarding: %w", err)
	}
	if err := os.WriteFile(forwardSwitch, []byte("1"), 0); err != nil {
		return fmt.Errorf("turn on forwarding: %w", err)
	}
	return nil
}

// restoreForwarding turns forwarding off again when we turned it on, and no other home's uplink needs it. Who else came to
// lean on it since cannot be seen.
func (v *veth) restoreForwarding() error {
	err := os.Remove(v.d.forwardingNote())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	links, listErr := netlink.LinkList()
	if err = errors.Join(err, listErr); err != nil {
		return fmt.Errorf("restore forwarding: %w", err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, hostLinkPrefix) {
			return nil
		}
	}
	if err := os.WriteFile(forwardSwitch, []byte("0"), 0); err != nil {
		return fmt.Errorf("restore forwarding: %w", err)
	}
	return nil
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
