package relay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
)

// relayDialTimeout is how long the world may take to answer; a Linux guest gives up after about as
// long.
const relayDialTimeout = 2 * time.Minute

// relayKeepAlive finds peers in the world that are gone. The guests' own probes end at the relay.
var relayKeepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 30 * time.Second, Count: 8}

// errNotWorld says that a connection led to no place of the world.
var errNotWorld = fmt.Errorf("the destination is this host, or machines of another home: %w", syscall.ECONNREFUSED)

// dialWorld connects to the world from the host's namespace.
func dialWorld(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	if err := checkWorld(to.Addr()); err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: relayDialTimeout, KeepAliveConfig: relayKeepAlive}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	world := conn.(*net.TCPConn)
	_ = world.SetLinger(0) // until join: a relay that is killed leaves no connection that seems to have ended well
	// The routes may have changed since they were asked.
	if world.LocalAddr().(*net.TCPAddr).IP.Equal(world.RemoteAddr().(*net.TCPAddr).IP) {
		reset(world)
		return nil, errNotWorld
	}
	return world, nil
}

// checkWorld reports why an address is none of the world's. What the relay dials comes from this
// host itself, which reaches more than a packet that it only passes on: its own services, whatever
// address they have, and by their veth uplinks the machines of root's homes, whose rules let nobody
// else in.
func checkWorld(to netip.Addr) error {
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil {
		return fmt.Errorf("find the way to %s: %w", to, err)
	}
	for _, route := range routes {
		if route.Type == unix.RTN_LOCAL {
			return errNotWorld
		}
		link, err := netlink.LinkByIndex(route.LinkIndex)
		if err != nil {
			return fmt.Errorf("find the link to %s: %w", to, err)
		}
		if strings.HasPrefix(link.Attrs().Name, network.HostLinkPrefix) {
			return errNotWorld
		}
	}
	return nil
}
