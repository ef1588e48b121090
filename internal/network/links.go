package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// prepareNamespace sets what a new namespace needs once. It writes only settings that belong to the namespace.
func prepareNamespace() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	if err := os.WriteFile(ip4.forwardSwitch, []byte("1"), 0); err != nil {
		return fmt.Errorf("turn on forwarding: %w", err)
	}
	// Connections from here end in a VM, one queue away: none needs the pace that the host's default may give it (bbr), which
	// costs a third of what a VM gets. Every kernel has reno.
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0); err != nil {
		return fmt.Errorf("set congestion control: %w", err)
	}
	if !hasIPv6() {
		return nil
	}
	// An earlier build turned IPv6 off, and may have left the namespace. Addresses here are nobody else's: none is probed.
	for _, setting := range [][2]string{{"default/disable_ipv6", "0"}, {"lo/disable_ipv6", "0"}, {"default/dad_transmits", "0"}, {"all/forwarding", "1"}} {
		if err := set6(setting[0], setting[1]); err != nil {
			return err
		}
	}
	return nil
}

const settings6 = "/proc/sys/net/ipv6/conf/"

// hasIPv6 reports whether the kernel does.
func hasIPv6() bool { return exists(settings6) }

// set6 writes a setting of IPv6, INTERFACE/NAME.
func set6(name, value string) error {
	if err := os.WriteFile(settings6+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set IPv6 %s to %s: %w", name, value, err)
	}
	return nil
}

// applyLinks makes the bridge and exactly the taps of a state. Its rules are in force already.
func applyLinks(s state) error {
	bridge, err := ensureBridge(s)
	if err != nil {
		return err
	}
	if s.Veth {
		if err := joinVeth(s); err != nil {
			return err
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	extra := map[string]netlink.Link{}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "tap") {
			extra[l.Attrs().Name] = l
		}
	}
	for _, p := range s.Ports {
		if extra[p.tapName()] == nil {
			if err := addTap(bridge, p, s); err != nil {
				return err
			}
		}
		delete(extra, p.tapName())
	}
	for name, l := range extra {
		if err := removeTap(bridge, l, s); err != nil {
			return fmt.Errorf("delete tap %s: %w", name, err)
		}
	}
	return nil
}

// ensureBridge makes the bridge with the gateway's addresses unless it is there.
func ensureBridge(s state) (netlink.Link, error) {
	if bridge, err := netlink.LinkByName(bridgeName); err == nil {
		return bridge, joinGateway(bridge, s)
	}
	mac, err := net.ParseMAC(MAC(Gateway(s.Subnet)))
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = bridgeName, s.MTU, mac
	off := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
	if err := netlink.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("add bridge: %w", err)
	}
	if err := joinGateway(bridge, s); err != nil {
		return nil, errors.Join(err, netlink.LinkDel(bridge))
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return nil, errors.Join(fmt.Errorf("set bridge up: %w", err), netlink.LinkDel(bridge))
	}
	return bridge, nil
}

// joinGateway gives the bridge the gateway's addresses. It can be repeated.
func joinGateway(bridge netlink.Link, s state) error {
	if s.IPv6 { // without a link-local address, which would be a way between VMs that no rule knows
		if err := errors.Join(set6(bridgeName+"/addr_gen_mode", "1"), set6(bridgeName+"/disable_ipv6", "0")); err != nil {
			return err
		}
	}
	for _, f := range s.families() {
		gateway := &netlink.Addr{IPNet: ipNet(f.of(Gateway(s.Subnet)), f.net(s.Subnet).Bits()), Flags: f.addressFlags}
		if err := netlink.AddrReplace(bridge, gateway); err != nil {
			return fmt.Errorf("add gateway's address: %w", err)
		}
	}
	return nil
}

// addTap makes a port's tap and joins it to the bridge, which knows the port's MAC and addresses from then on and learns no
// other. Nothing of it is left on an error.
func addTap(bridge netlink.Link, p Port, s state) (err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.tapName()
	// Like `ip tuntap add mode tap`, with virtio-net headers, as the VMMs open it.
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_ONE_QUEUE | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI}
	if err := netlink.LinkAdd(tap); err != nil {
		return fmt.Errorf("add tap %s: %w%s", attrs.Name, err, tunHint(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("set up tap %s: %w", attrs.Name, err), netlink.LinkDel(tap))
		}
	}()
	mac, err := net.ParseMAC(p.MAC)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return netlink.LinkSetMTU(tap, s.MTU) },
		func() error { return netlink.LinkSetMaster(tap, bridge) },
		func() error { return netlink.LinkSetLearning(tap, false) },
		func() error { return netlink.LinkSetFlood(tap, false) },
		func() error {
			if !s.IPv6 {
				return nil
			}
			return set6(attrs.Name+"/disable_ipv6", "1") // it is the guest's end that speaks
		},
		func() error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: tap.Attrs().Index, Family: unix.AF_BRIDGE,
				State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac,
			})
		},
		func() error {
			for _, n := range neighbours(bridge, p.Address, s) {
				n.State, n.HardwareAddr = netlink.NUD_PERMANENT, mac
				if err := netlink.NeighSet(n); err != nil {
					return err
				}
			}
			return nil
		},
		func() error { return netlink.LinkSetUp(tap) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// neighbours are the bridge's entries for the addresses that go with an IPv4 one.
func neighbours(bridge netlink.Link, a netip.Addr, s state) (all []*netlink.Neigh) {
	for _, f := range s.families() {
		all = append(all, &netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: f.socket, IP: f.of(a).AsSlice()})
	}
	return all
}

// removeTap deletes a tap, also one that a VMM has open. The bridge forgets the port with it, the neighbour entries by us.
func removeTap(bridge, tap netlink.Link, s state) error {
	var a [4]byte
	if _, err := fmt.Sscanf(tap.Attrs().Name, "tap%02x%02x%02x%02x", &a[0], &a[1], &a[2], &a[3]); err != nil {
		return err
	}
	for _, n := range neighbours(bridge, netip.AddrFrom4(a), s) {
		if err := netlink.NeighDel(n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete neighbour: %w", err)
		}
	}
	return netlink.LinkDel(tap)
}

func tunHint(err error) string {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ENOENT) {
		return " (the user must be able to open /dev/net/tun: chmod 666 /dev/net/tun, or modprobe tun)"
	}
	return ""
}

// joinVeth configures the namespace's end of a veth uplink, which the keeper put there.
func joinVeth(s state) error {
	uplink, err := netlink.LinkByName(uplinkName)
	if err != nil {
		return fmt.Errorf("find %s: %w", uplinkName, err)
	}
	if err := netlink.LinkSetUp(uplink); err != nil {
		return fmt.Errorf("set %s up: %w", uplinkName, err)
	}
	for _, f := range s.outside() {
		if err := f.joinVeth(uplink, s); err != nil {
			return err
		}
	}
	return nil
}

func (f *family) joinVeth(uplink netlink.Link, s state) error {
	own, host := f.of(uplinkEnd(s.Subnet)), f.of(hostEnd(s.Subnet))
	if err := netlink.AddrReplace(uplink, &netlink.Addr{IPNet: hostNet(own), Flags: f.addressFlags}); err != nil {
		return fmt.Errorf("add address of %s: %w", uplinkName, err)
	}
	if err := f.answerForHost(host); err != nil {
		return err
	}
	index := uplink.Attrs().Index
	for _, route := range []*netlink.Route{
		{LinkIndex: index, Dst: hostNet(host), Scope: netlink.SCOPE_LINK},
		{LinkIndex: index, Dst: f.anywhere(), Gw: host.AsSlice(), Src: own.AsSlice(), Flags: int(netlink.FLAG_ONLINK)},
	} {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route by %s: %w", uplinkName, err)
		}
	}
	return nil
}

// answerForHost has the bridge answer ARP, or neighbour discovery, for the host's end, which the guests take for a neighbour
// of theirs.
func (f *family) answerForHost(host netip.Addr) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	// The kernel would wait up to 0.8 s, in case that somebody else answers.
	if err := os.WriteFile("/proc/sys/net/"+f.settings+"/neigh/"+bridgeName+"/proxy_delay", []byte("0"), 0); err != nil {
		return fmt.Errorf("set ARP delay: %w", err)
	}
	if f == ip6 {
		if err := set6(bridgeName+"/proxy_ndp", "1"); err != nil {
			return err
		}
	}
	err = netlink.NeighSet(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: f.socket, Flags: netlink.NTF_PROXY, IP: host.AsSlice()})
	if err != nil {
		return fmt.Errorf("answer ARP for the host: %w", err)
	}
	return nil
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

func hostNet(a netip.Addr) *net.IPNet { return ipNet(a, a.BitLen()) }
