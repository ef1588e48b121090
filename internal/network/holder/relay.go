package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network/nft"
	"banger/internal/network/plan"
)

// openRelay makes the holder's part of the relay, and what leads to it: the tun devices SYNName and
// ResetName, then a listening socket for each version of IP. An error says that this kernel cannot.
func openRelay(ctx context.Context) (files sharedFiles, err error) {
	if err := canRelay(); err != nil {
		return nil, fmt.Errorf("try nftables' tproxy: %w", err)
	}
	defer func() {
		if err != nil {
			files.close()
			files = nil
		}
	}()
	for _, name := range []string{plan.SYNName, plan.ResetName} {
		tun, err := openTun(name)
		if err != nil {
			return files, err
		}
		files = append(files, tun)
	}
	if err := relaySettings(); err != nil {
		return files, err
	}
	for _, f := range nft.Families(nft.HasIPv6()) {
		if err := routeMarks(f); err != nil {
			return files, err
		}
		listener, err := listenForRelay(ctx, f)
		if err != nil {
			return files, err
		}
		files = append(files, listener)
	}
	return files, nil
}

func relaySettings() error {
	const settings = "/proc/sys/net/ipv4/"
	for _, name := range []string{
		// What comes back by a tun has a VM's address, which is behind the bridge.
		"conf/all/rp_filter", "conf/" + plan.SYNName + "/rp_filter", "conf/" + plan.ResetName + "/rp_filter",
		// For IPv6 too. Else the first packet from a port that a VM had used before finds the
		// remains of its socket (TIME_WAIT), and the kernel forwards no packet that has one.
		"tcp_early_demux",
	} {
		if err := os.WriteFile(settings+name, []byte("0"), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// listenForRelay opens the socket that takes the VMs' connections to any address.
func listenForRelay(ctx context.Context, f *nft.Family) (*os.File, error) {
	listening := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = setTransparent(f, int(fd)) })
		return errors.Join(err, failed)
	}}
	listener, err := listening.Listen(ctx, "tcp", plan.RelayAddress(f).String())
	if err != nil {
		return nil, fmt.Errorf("listen for machines' connections: %w", err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("share socket: %w", err)
	}
	return file, nil
}

// setTransparent lets a socket take packets for any address (ip(7), IP_TRANSPARENT).
func setTransparent(f *nft.Family, fd int) error {
	if f == nft.IP6 {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
}

func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open tun %s: %w%s", name, err, tunHint(err))
	}
	tun := os.NewFile(uintptr(fd), name)
	if err := setUpTun(fd, name); err != nil {
		tun.Close()
		return nil, fmt.Errorf("make tun %s: %w", name, err)
	}
	return tun, nil
}

func setUpTun(fd int, name string) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if nft.HasIPv6() { // without an address of its own, which would have it send
		if err := nft.Set6(name+"/addr_gen_mode", "1"); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetTxQLen(link, plan.SYNQueue); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// routeMarks makes the routes of marked packets, and the rules that choose them. It can be
// repeated.
func routeMarks(f *nft.Family) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	ask, err := netlink.LinkByName(plan.SYNName)
	if err != nil {
		return fmt.Errorf("find %s: %w", plan.SYNName, err)
	}
	for _, route := range []*netlink.Route{
		{
			Table: plan.MarkLocal, LinkIndex: lo.Attrs().Index, Dst: f.Anywhere(),
			Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		},
		{Table: plan.MarkSYN, LinkIndex: ask.Attrs().Index, Dst: f.Anywhere(), Scope: netlink.SCOPE_LINK},
	} {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to %s: %w", route.Dst, err)
		}
		rule := netlink.NewRule()
		rule.Family, rule.Table, rule.Mark, rule.Priority = f.Socket, route.Table, uint32(route.Table), route.Table
		if err := netlink.RuleAdd(rule); err != nil && !os.IsExist(err) {
			return fmt.Errorf("add rule for mark %d: %w", route.Table, err)
		}
	}
	return nil
}

// canRelay reports why the kernel has not what the rules need.
func canRelay() error {
	const name = "banger-trial"
	for _, f := range nft.Families(nft.HasIPv6()) {
		trial := nft.Table{Family: f.Table, Name: name, Chains: []nft.Chain{
			{
				Name:  "relay",
				Kind:  nftables.ChainTypeFilter,
				Hook:  *nftables.ChainHookPrerouting,
				Rules: []nft.Rule{{nft.InInterface(plan.SYNName), nft.TCP, nft.TProxy(f, plan.RelayAddress(f))}},
			},
			{Name: "input", Kind: nftables.ChainTypeFilter, Hook: *nftables.ChainHookInput, Rules: plan.RelayInput()},
		}}
		if err := nft.Apply([]nft.Table{trial}); err != nil {
			return err
		}
		if err := nft.Remove(f.Table, name); err != nil {
			return err
		}
	}
	return nil
}
