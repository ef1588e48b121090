package netcfg

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	settings4 = "/proc/sys/net/ipv4/conf/"
	settings6 = "/proc/sys/net/ipv6/conf/"

	metric6 = 1024 // the kernel's for an IPv6 route that names none; for IPv4 it is 0
)

// Raise sets an interface up. Loopback gets its addresses by that.
func Raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return raise(link)
}

func raise(link netlink.Link) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

// setLink gives the card its MAC and its MTU, and raises it. virtio-net takes a MAC while it is up,
// which spares the routes that others added: to set the link down would drop them.
func setLink(link netlink.Link, want Config) error {
	now := link.Attrs()
	if len(want.MAC) > 0 && !bytes.Equal(now.HardwareAddr, want.MAC) {
		if err := netlink.LinkSetHardwareAddr(link, want.MAC); err != nil {
			return fmt.Errorf("give %s the MAC %s: %w", now.Name, want.MAC, err)
		}
	}
	if want.MTU != 0 && now.MTU != want.MTU {
		if err := netlink.LinkSetMTU(link, want.MTU); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", now.Name, want.MTU, err)
		}
	}
	return raise(link)
}

// readState asks the kernel what the card has now.
func readState(name string) (state, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return state{}, fmt.Errorf("find %s: %w", name, err)
	}
	now := state{mac: link.Attrs().HardwareAddr, ipv6: hasIPv6(name)}
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return state{}, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, a := range addresses {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			ones, _ := a.Mask.Size()
			now.addresses = append(now.addresses, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			return state{}, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			now.addRoute(family, link.Attrs().Index, r)
		}
	}
	return now, nil
}

// addRoute takes note of a default route that has the metric of ours; a family has room for one.
func (s *state) addRoute(family, card int, r netlink.Route) {
	metric, foreign := 0, &s.foreign4
	if family == netlink.FAMILY_V6 {
		metric, foreign = metric6, &s.foreign6
	}
	isDefault := r.Dst == nil
	if !isDefault {
		ones, _ := r.Dst.Mask.Size()
		isDefault = ones == 0
	}
	if !isDefault || r.Priority != metric {
		return
	}
	gateway, ok := netip.AddrFromSlice(r.Gw)
	if !ok || r.LinkIndex != card {
		*foreign = true
		return
	}
	s.gateways = append(s.gateways, gateway.Unmap())
}

// dump lists what the kernel has. It asks again when somebody changed that meanwhile and the list
// may miss a part.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	const tries = 10
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// do makes one change.
func (c change) do(link netlink.Link) error {
	name := link.Attrs().Name
	address := &netlink.Addr{IPNet: ipNet(c.address)}
	switch c.verb {
	case giveAddress:
		if c.address.Addr().Is6() {
			// It is nobody else's by the host's rules, so the kernel need not ask before it uses
			// it.
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, address); err != nil {
			return fmt.Errorf("give %s the address %s: %w", name, c.address, err)
		}
	case removeAddress:
		if err := netlink.AddrDel(link, address); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("take the address %s from %s: %w", c.address, name, err)
		}
	case addGateway:
		if err := netlink.RouteReplace(defaultRoute(link, c.gateway)); err != nil {
			return fmt.Errorf("route by gateway %s: %w", c.gateway, err)
		}
	case removeGateway:
		route := defaultRoute(link, c.gateway)
		route.Protocol = unix.RTPROT_UNSPEC // whoever wrote it down again: networkd does
		if err := netlink.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop to route by gateway %s: %w", c.gateway, err)
		}
	}
	return nil
}

func defaultRoute(link netlink.Link, gateway netip.Addr) *netlink.Route {
	anywhere := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if gateway.Is4() {
		anywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(anywhere), Gw: gateway.AsSlice(), Protocol: unix.RTPROT_STATIC,
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// keepSecondaries lets the addresses of a subnet outlive its first one, which without it takes them
// along: ours when the new one is of the old one's subnet, and those that somebody added. What it
// gives puts the setting back.
func keepSecondaries(name string) (restore func() error, err error) {
	file := settings4 + name + "/promote_secondaries"
	old, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte("1"), 0)
	}
	if err != nil {
		return nil, fmt.Errorf("keep addresses of %s: %w", name, err)
	}
	return func() error { return os.WriteFile(file, bytes.TrimSpace(old), 0) }, nil
}

// keepAddresses6 lets IPv6 addresses outlast that somebody sets the interface down and up, as those
// of IPv4 do.
func keepAddresses6(name string) error {
	if err := os.WriteFile(settings6+name+"/keep_addr_on_down", []byte("1"), 0); err != nil {
		return fmt.Errorf("keep addresses of %s: %w", name, err)
	}
	return nil
}

// hasIPv6 reports whether the kernel does, on that interface: it may be built without, told so on
// its command line, and has none on links with a small MTU.
func hasIPv6(name string) bool {
	off, err := os.ReadFile(settings6 + name + "/disable_ipv6")
	return err == nil && strings.TrimSpace(string(off)) == "0"
}
