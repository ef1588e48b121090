package holder

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

	"banger/internal/network"
	"banger/internal/network/nft"
	"banger/internal/network/plan"
)

// prepareNamespace sets what a new namespace needs once. It writes only settings that belong to the
// namespace.
func prepareNamespace() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	if err := os.WriteFile(nft.IP4.ForwardSwitch, []byte("1"), 0); err != nil {
		return fmt.Errorf("turn on forwarding: %w", err)
	}
	// Connections from here end in a VM, one queue away: none needs the pace that the host's
	// default may give it (bbr), which costs a third of what a VM gets. Every kernel has reno.
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0); err != nil {
		return fmt.Errorf("set congestion control: %w", err)
	}
	if !nft.HasIPv6() {
		return nil
	}
	// An earlier build turned IPv6 off, and may have left the namespace. Addresses here are nobody
	// else's: none is probed.
	for _, setting := range [][2]string{
		{"default/disable_ipv6", "0"}, {"lo/disable_ipv6", "0"}, {"default/dad_transmits", "0"}, {"all/forwarding", "1"},
	} {
		if err := nft.Set6(setting[0], setting[1]); err != nil {
			return err
		}
	}
	return nil
}

// applyLinks makes the bridge and exactly the taps of a state. Its rules are in force already.
func applyLinks(s plan.State) error {
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
	for _, p := range s.Endpoints {
		if extra[p.TapName()] == nil {
			if err := addTap(bridge, p, s); err != nil {
				return err
			}
		}
		delete(extra, p.TapName())
	}
	for name, l := range extra {
		if err := removeTap(bridge, l, s); err != nil {
			return fmt.Errorf("delete tap %s: %w", name, err)
		}
	}
	return nil
}

// ensureBridge makes the bridge with the gateway's addresses unless it is there.
func ensureBridge(s plan.State) (netlink.Link, error) {
	if bridge, err := netlink.LinkByName(plan.Bridge); err == nil {
		return bridge, joinGateway(bridge, s)
	}
	mac, err := net.ParseMAC(network.MAC(network.Gateway(s.Subnet)))
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = plan.Bridge, s.MTU, mac
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
func joinGateway(bridge netlink.Link, s plan.State) error {
	if s.IPv6 { // without a link-local address, which would be a way between VMs that no rule knows
		err := errors.Join(nft.Set6(plan.Bridge+"/addr_gen_mode", "1"), nft.Set6(plan.Bridge+"/disable_ipv6", "0"))
		if err != nil {
			return err
		}
	}
	for _, f := range s.Families() {
		gateway := &netlink.Addr{
			IPNet: nft.IPNet(f.Of(network.Gateway(s.Subnet)), f.Net(s.Subnet).Bits()),
			Flags: f.AddressFlags,
		}
		if err := netlink.AddrReplace(bridge, gateway); err != nil {
			return fmt.Errorf("add gateway's address: %w", err)
		}
	}
	return nil
}

// addTap makes an endpoint's tap and joins it to the bridge, which knows the endpoint's MAC and
// addresses from then on and learns no other. Nothing of it is left on an error.
func addTap(bridge netlink.Link, p network.Endpoint, s plan.State) (err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.TapName()
	// Like `ip tuntap add mode tap`, with virtio-net headers, as the VMMs open it.
	tap := &netlink.Tuntap{
		LinkAttrs: attrs,
		Mode:      netlink.TUNTAP_MODE_TAP,
		Flags:     netlink.TUNTAP_ONE_QUEUE | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI,
	}
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
			return nft.Set6(attrs.Name+"/disable_ipv6", "1") // it is the guest's end that speaks
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
func neighbours(bridge netlink.Link, a netip.Addr, s plan.State) (all []*netlink.Neigh) {
	for _, f := range s.Families() {
		all = append(all, &netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: f.Socket, IP: f.Of(a).AsSlice()})
	}
	return all
}

// removeTap deletes a tap, also one that a VMM has open. The bridge forgets the endpoint with it,
// the neighbour entries by us.
func removeTap(bridge, tap netlink.Link, s plan.State) error {
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
func joinVeth(s plan.State) error {
	uplink, err := netlink.LinkByName(plan.Uplink)
	if err != nil {
		return fmt.Errorf("find %s: %w", plan.Uplink, err)
	}
	if err := netlink.LinkSetUp(uplink); err != nil {
		return fmt.Errorf("set %s up: %w", plan.Uplink, err)
	}
	for _, f := range s.Outside() {
		if err := joinVethBy(f, uplink, s); err != nil {
			return err
		}
	}
	return nil
}

func joinVethBy(f *nft.Family, uplink netlink.Link, s plan.State) error {
	own, host := f.Of(network.UplinkEnd(s.Subnet)), f.Of(network.HostEnd(s.Subnet))
	if err := netlink.AddrReplace(uplink, &netlink.Addr{IPNet: nft.HostNet(own), Flags: f.AddressFlags}); err != nil {
		return fmt.Errorf("add address of %s: %w", plan.Uplink, err)
	}
	if err := answerForHost(f, host); err != nil {
		return err
	}
	index := uplink.Attrs().Index
	for _, route := range []*netlink.Route{
		{LinkIndex: index, Dst: nft.HostNet(host), Scope: netlink.SCOPE_LINK},
		{LinkIndex: index, Dst: f.Anywhere(), Gw: host.AsSlice(), Src: own.AsSlice(), Flags: int(netlink.FLAG_ONLINK)},
	} {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route by %s: %w", plan.Uplink, err)
		}
	}
	return nil
}

// answerForHost has the bridge answer ARP, or neighbour discovery, for the host's end, which the
// guests take for a neighbour of theirs.
func answerForHost(f *nft.Family, host netip.Addr) error {
	bridge, err := netlink.LinkByName(plan.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	// The kernel would wait up to 0.8 s, in case that somebody else answers.
	delay := "/proc/sys/net/" + f.Settings + "/neigh/" + plan.Bridge + "/proxy_delay"
	if err := os.WriteFile(delay, []byte("0"), 0); err != nil {
		return fmt.Errorf("set ARP delay: %w", err)
	}
	if f == nft.IP6 {
		if err := nft.Set6(plan.Bridge+"/proxy_ndp", "1"); err != nil {
			return err
		}
	}
	err = netlink.NeighSet(
		&netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: f.Socket, Flags: netlink.NTF_PROXY, IP: host.AsSlice()})
	if err != nil {
		return fmt.Errorf("answer ARP for the host: %w", err)
	}
	return nil
}
