package network

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
)

// openRelay makes the holder's part of the relay, and what leads to it: the tun devices askName and refuseName, then a
// listening socket for each version of IP. An error says that this kernel cannot.
func openRelay(ctx context.Context) (files heldFiles, err error) {
	if err := canRelay(); err != nil {
		return nil, fmt.Errorf("try nftables' tproxy: %w", err)
	}
	defer func() {
		if err != nil {
			files.close()
			files = nil
		}
	}()
	for _, name := range []string{askName, refuseName} {
		tun, err := openTun(name)
		if err != nil {
			return files, err
		}
		files = append(files, tun)
	}
	if err := relaySettings(); err != nil {
		return files, err
	}
	for _, f := range both() {
		if err := f.routeMarks(); err != nil {
			return files, err
		}
		listener, err := f.listenForRelay(ctx)
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
		"conf/all/rp_filter", "conf/" + askName + "/rp_filter", "conf/" + refuseName + "/rp_filter",
		// For IPv6 too. Else the first packet from a port that a VM had used before finds the remains of its socket
		// (TIME_WAIT), and the kernel forwards no packet that has one.
		"tcp_early_demux",
	} {
		if err := os.WriteFile(settings+name, []byte("0"), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// listenForRelay opens the socket that takes the VMs' connections to any address.
func (f *family) listenForRelay(ctx context.Context) (*os.File, error) {
	listening := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = f.setTransparent(int(fd)) })
		return errors.Join(err, failed)
	}}
	listener, err := listening.Listen(ctx, "tcp", f.relayAddress().String())
	if err != nil {
		return nil, fmt.Errorf("listen for VMs' connections: %w", err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("share socket: %w", err)
	}
	return file, nil
}

// setTransparent lets a socket take packets for any address (ip(7), IP_TRANSPARENT).
func (f *family) setTransparent(fd int) error {
	if f == ip6 {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
}

// both are the versions of IP that the kernel has.
func both() []*family {
	return state{IPv6: hasIPv6()}.families()
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
	if hasIPv6() { // without an address of its own, which would have it send
		if err := set6(name+"/addr_gen_mode", "1"); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetTxQLen(link, askQueue); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// routeMarks makes the routes of marked packets, and the rules that choose them. It can be repeated.
func (f *family) routeMarks() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	ask, err := netlink.LinkByName(askName)
	if err != nil {
		return fmt.Errorf("find %s: %w", askName, err)
	}
	for _, route := range []*netlink.Route{
		{Table: markLocal, LinkIndex: lo.Attrs().Index, Dst: f.anywhere(), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST},
		{Table: markAsk, LinkIndex: ask.Attrs().Index, Dst: f.anywhere(), Scope: netlink.SCOPE_LINK},
	} {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to %s: %w", route.Dst, err)
		}
		rule := netlink.NewRule()
		rule.Family, rule.Table, rule.Mark, rule.Priority = f.socket, route.Table, uint32(route.Table), route.Table
		if err := netlink.RuleAdd(rule); err != nil && !os.IsExist(err) {
			return fmt.Errorf("add rule for mark %d: %w", route.Table, err)
		}
	}
	return nil
}

// canRelay reports why the kernel has not what the rules need.
func canRelay() error {
	const name = "banger-trial"
	for _, f := range both() {
		trial := table{family: f.table, name: name, chains: []chain{
			{name: "relay", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookPrerouting, rules: []rule{{inInterface(askName), isTCP, f.toRelay()}}},
			{name: "input", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookInput, rules: relayInput()},
		}}
		if err := applyRules([]table{trial}); err != nil {
			return err
		}
		if err := removeTable(f.table, name); err != nil {
			return err
		}
	}
	return nil
}
