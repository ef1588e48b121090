package uplink

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
)

// CheckConflict reports what of the host's routes would keep the network from coming up.
func CheckConflict(d network.Dir, subnet netip.Prefix, rootless bool) error {
	return checkConflict(subnet, ownLinks(d, subnet, rootless))
}

// ownLinks is how the names of links begin by which a route to the subnet is no conflict.
func ownLinks(d network.Dir, subnet netip.Prefix, rootless bool) string {
	if rootless {
		return network.HostLinkPrefix // what lies behind other homes' links is no place for this home's VMs to reach
	}
	return newVeth(d, subnet).link
}

// checkConflict reports a route of the host's, other than by a link whose name begins with ours,
// that covers a part of the subnet.
func checkConflict(subnet netip.Prefix, ours string) error {
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		to, err := netip.ParsePrefix(r.Dst.String())
		if err != nil || to.Bits() == 0 || !to.Overlaps(subnet) {
			continue
		}
		name := fmt.Sprint("link ", r.LinkIndex)
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			name = l.Attrs().Name
		}
		if !strings.HasPrefix(name, ours) {
			return fmt.Errorf("subnet %s is in use on this host: it has a route to %s by %s"+
				" (set another: subnet in config.toml, or BANGER_SUBNET)", subnet, to, name)
		}
	}
	return nil
}
