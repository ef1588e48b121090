package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	cardWait = 5 * time.Second // for the network card, whose driver is loaded already
	cardPoll = 5 * time.Millisecond

	settings6 = "/proc/sys/net/ipv6/conf/"
)

// setUpNetwork raises loopback and, if the host gave the VM an address, configures its network card. It does so before
// the image's init runs, so that every image has the same network, whatever it uses to configure one itself.
func (s *state) setUpNetwork(ctx context.Context) error {
	if err := raise("lo"); err != nil {
		return err
	}
	n := s.cmdline.Network
	if !n.Address.IsValid() {
		return nil
	}
	card, err := waitCard(ctx, "/sys/class/net", cardWait)
	if err != nil {
		return err
	}
	if err := n.apply(card); err != nil {
		return err
	}
	if !hasIPv6(card) { // nor need a network manager try
		n.Address6, n.Gateway6 = netip.Prefix{}, netip.Addr{}
	}
	etc, err := makeInRoot(newRoot, "/etc", 0o755)
	if err != nil {
		return err
	}
	return errors.Join(n.writeResolvConf(etc), n.writeManagerFiles("/run", card))
}

// raise sets an interface up. Loopback gets its addresses by that.
func raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// apply configures the interface. It can be repeated.
func (n Network) apply(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if n.MTU != 0 {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", name, n.MTU, err)
		}
	}
	if err := giveAddress(link, n.Address, 0); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	if err := routeBy(link, n.Gateway); err != nil {
		return err
	}
	if !n.Address6.IsValid() || !hasIPv6(name) {
		return nil
	}
	// As for IPv4, the address outlasts that somebody sets the interface down and up.
	if err := os.WriteFile(settings6+name+"/keep_addr_on_down", []byte("1"), 0); err != nil {
		return fmt.Errorf("keep addresses of %s: %w", name, err)
	}
	// The address is nobody else's by the host's rules, so the kernel need not ask before it uses it.
	if err := giveAddress(link, n.Address6, unix.IFA_F_NODAD); err != nil {
		return err
	}
	return routeBy(link, n.Gateway6)
}

// hasIPv6 reports whether the kernel does, on that interface: it may be built without, told so on its command line, and
// has none on links with a small MTU.
func hasIPv6(name string) bool {
	off, err := os.ReadFile(settings6 + name + "/disable_ipv6")
	return err == nil && strings.TrimSpace(string(off)) == "0"
}

func giveAddress(link netlink.Link, address netip.Prefix, flags int) error {
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(address), Flags: flags}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, address, err)
	}
	return nil
}

// routeBy makes a default route, unless there is no gateway.
func routeBy(link netlink.Link, gateway netip.Addr) error {
	if !gateway.IsValid() {
		return nil
	}
	anywhere := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if gateway.Is4() {
		anywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(anywhere), Gw: gateway.AsSlice(), Protocol: unix.RTPROT_STATIC}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route by gateway %s: %w", gateway, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// waitCard waits for the VM's virtio-net card, at most for deadline, and gives its name: eth0, with net.ifnames=0. Of
// several the first one counts.
func waitCard(ctx context.Context, sysNet string, deadline time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tick := time.NewTicker(cardPoll)
	defer tick.Stop()
	for {
		card, others := scanCards(sysNet)
		if card != "" {
			return card, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("no virtio-net card (there is: %s)", strings.Join(others, ", "))
		}
	}
}

// scanCards looks for an interface of the driver virtio_net, and lists the others for an error's sake.
func scanCards(sysNet string) (card string, others []string) {
	paths, _ := filepath.Glob(filepath.Join(sysNet, "*"))
	for _, path := range paths {
		driver, err := os.Readlink(filepath.Join(path, "device/driver"))
		if err == nil && filepath.Base(driver) == "virtio_net" {
			return filepath.Base(path), nil
		}
		others = append(others, filepath.Base(path))
	}
	return "", others
}
