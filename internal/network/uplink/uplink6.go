package uplink

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network/nft"
)

// MinMTU6 is the smallest link that IPv6 knows (RFC 8200).
const MinMTU6 = 1280

// check6 reports why no uplink can carry IPv6. The namespace must be able to.
func check6(namespace bool) error {
	if !namespace {
		return errors.New("the network's namespace has no IPv6, or is of an earlier build")
	}
	return checkDefaultRoute6()
}

// checkDefaultRoute6 reports why the host itself reaches nobody by IPv6: it needs a route and an
// address.
func checkDefaultRoute6() error {
	routes, err := netlink.RouteList(nil, unix.AF_INET6)
	if err != nil {
		return fmt.Errorf("list the host's IPv6 routes: %w", err)
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST || r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		addresses, err := netlink.AddrList(nil, unix.AF_INET6)
		if err != nil {
			return fmt.Errorf("list the host's IPv6 addresses: %w", err)
		}
		for _, a := range addresses {
			if a.Scope == unix.RT_SCOPE_UNIVERSE {
				return nil
			}
		}
	}
	return errors.New("this host has no IPv6 address and default route")
}

// checkForwarding6 reports why forwarding must not be turned on. Linux has one switch for all
// interfaces, which makes the host a router: it forgets the default routes that routers advertised
// to it, and takes no others, but on interfaces where accept_ra is 2. Network managers that listen
// to routers themselves look at the switch too.
func checkForwarding6() error {
	now, err := os.ReadFile(nft.IP6.ForwardSwitch)
	if err != nil {
		return fmt.Errorf("read IPv6 forwarding: %w", err)
	}
	if strings.TrimSpace(string(now)) != "0" {
		return nil
	}
	routes, err := netlink.RouteList(nil, unix.AF_INET6)
	if err != nil {
		return fmt.Errorf("list the host's IPv6 routes: %w", err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_RA {
			continue
		}
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			return fmt.Errorf("find link %d of an IPv6 route: %w", r.LinkIndex, err)
		}
		accepts, err := os.ReadFile(nft.Settings6 + l.Attrs().Name + "/accept_ra")
		if err != nil {
			return fmt.Errorf("read accept_ra of %s: %w", l.Attrs().Name, err)
		}
		if strings.TrimSpace(string(accepts)) != "2" {
			name := "net.ipv6.conf." + l.Attrs().Name + ".accept_ra"
			return fmt.Errorf("IPv6 forwarding is off on this host, and turning it on would lose the route that %s learned"+
				" from its router (sysctl %s=2, or net.ipv6.conf.all.forwarding=1, allows it)", l.Attrs().Name, name)
		}
	}
	return nil
}
