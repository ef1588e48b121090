package network

import (
	"errors"
	"fmt"
	"net"
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
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("turn on forwarding: %w", err)
	}
	for _, set := range []string{"all", "default"} { // a kernel without IPv6 has no such file
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+set+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("turn off IPv6: %w", err)
		}
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
			if err := addTap(bridge, p, s.MTU); err != nil {
				return err
			}
		}
		delete(extra, p.tapName())
	}
	for name, l := range extra {
		if err := removeTap(bridge, l); err != nil {
			return fmt.Errorf("delete tap %s: %w", name, err)
		}
	}
	return nil
}

// ensureBridge makes the bridge with the gateway's addresses unless it is there.
func ensureBridge(s state) (netlink.Link, error) {
	if bridge, err := netlink.LinkByName(bridgeName); err == nil {
		return bridge, nil
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
	err = netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(Gateway(s.Subnet), s.Subnet.Bits())})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("add gateway's address: %w", err), netlink.LinkDel(bridge))
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return nil, errors.Join(fmt.Errorf("set bridge up: %w", err), netlink.LinkDel(bridge))
	}
	return bridge, nil
}

// addTap makes a port's tap and joins it to the bridge, which knows the port's MAC and IPv4 address from then on and
// learns no other. Nothing of it is left on an error.
func addTap(bridge netlink.Link, p Port, mtu int) (err error) {
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
		func() error { return netlink.LinkSetMTU(tap, mtu) },
		func() error { return netlink.LinkSetMaster(tap, bridge) },
		func() error { return netlink.LinkSetLearning(tap, false) },
		func() error { return netlink.LinkSetFlood(tap, false) },
		func() error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: tap.Attrs().Index, Family: unix.AF_BRIDGE,
				State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac,
			})
		},
		func() error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: bridge.Attrs().Index, Family: unix.AF_INET,
				State: netlink.NUD_PERMANENT, IP: p.Address.AsSlice(), HardwareAddr: mac,
			})
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

// removeTap deletes a tap, also one that a VMM has open. The bridge forgets the port with it, the neighbour entry by us.
func removeTap(bridge, tap netlink.Link) error {
	var a [4]byte
	if _, err := fmt.Sscanf(tap.Attrs().Name, "tap%02x%02x%02x%02x", &a[0], &a[1], &a[2], &a[3]); err != nil {
		return err
	}
	err := netlink.NeighDel(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: unix.AF_INET, IP: a[:]})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete neighbour: %w", err)
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
	if err := netlink.AddrReplace(uplink, &netlink.Addr{IPNet: ipNet(uplinkEnd(s.Subnet), 32)}); err != nil {
		return fmt.Errorf("add address of %s: %w", uplinkName, err)
	}
	if err := netlink.LinkSetUp(uplink); err != nil {
		return fmt.Errorf("set %s up: %w", uplinkName, err)
	}
	if err := answerForHost(s); err != nil {
		return err
	}
	index := uplink.Attrs().Index
	for _, route := range []*netlink.Route{
		{LinkIndex: index, Dst: ipNet(hostEnd(s.Subnet), 32), Scope: netlink.SCOPE_LINK},
		{LinkIndex: index, Gw: hostEnd(s.Subnet).AsSlice(), Src: uplinkEnd(s.Subnet).AsSlice(), Flags: int(netlink.FLAG_ONLINK)},
	} {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route by %s: %w", uplinkName, err)
		}
	}
	return nil
}

// answerForHost has the bridge answer ARP for the host's end, which the guests take for a neighbour of theirs.
func answerForHost(s state) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	// The kernel would wait up to 0.8 s, in case that somebody else answers.
	if err := os.WriteFile("/proc/sys/net/ipv4/neigh/"+bridgeName+"/proxy_delay", []byte("0"), 0); err != nil {
		return fmt.Errorf("set ARP delay: %w", err)
	}
	err = netlink.NeighSet(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: unix.AF_INET, Flags: netlink.NTF_PROXY, IP: hostEnd(s.Subnet).AsSlice()})
	if err != nil {
		return fmt.Errorf("answer ARP for the host: %w", err)
	}
	return nil
}
