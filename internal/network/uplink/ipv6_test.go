package uplink_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/nettest"
	"banger/internal/network/nft"
)

// A host without a way out for IPv6 gives its VMs none: IPv4 is as ever, and VMs have IPv6 between
// each other.
func TestHostWithoutIPv6(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		t.Run(name, func(t *testing.T) {
			w := nettest.NewWorld(t)
			nettest.Check(t, netlink.RouteDel(nettest.DefaultRoute6()))
			h := w.Home("a", network.DefaultSubnet, rootless)
			nettest.Check(t, h.Ensure(t.Context()))
			one, two := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true})), h.Boot(h.Endpoint("two", 3, network.Policy{}))
			h.AwaitUplink(t)
			status, err := h.Status(t.Context())
			nettest.Check(t, err)
			if !status.IPv6 || !strings.Contains(status.Uplink6, "default route") {
				t.Errorf("IPv6 %t, its uplink is %q", status.IPv6, status.Uplink6)
			}
			if one.Tap.Gateway6.IsValid() || one.Tap.Address6.String() != "fd62:616e:6765::ac1e:2/112" {
				t.Errorf("the guest is told %+v", one.Tap)
			}
			one.Want("hello", "tcp", nettest.InternetAddress+":7")
			one.Want("error", "tcp", nettest.OtherAddress+":7")
			two.Want("error", "tcp", nettest.InternetAddress+":7")
			one.Want("error: dial tcp [2001:db8:1::1]:7: connect: network is unreachable", "tcp", "["+nettest.InternetAddress6+"]:7")
			one.Want("pong", "ping", two.Tap.Address6.Addr().String())
			two.Want("NOERROR fd62:616e:6765::ac1e:2", "dns", "one.vm AAAA/udp")
			if got := nettest.Forwards6(t); got != "0" {
				t.Errorf("the host's IPv6 forwarding is %s", got)
			}
		})
	}
}

// A host that would lose its route by forwarding is left alone, until its owner says that it would
// not.
func TestLearnedRouteIsKept(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	w := nettest.NewWorld(t)
	nettest.Check(t, netlink.RouteDel(nettest.DefaultRoute6()))
	wan, err := netlink.LinkByName("wan0")
	nettest.Check(t, err)
	learned := &netlink.Route{LinkIndex: wan.Attrs().Index, Gw: net.ParseIP(nettest.InternetAddress6), Protocol: unix.RTPROT_RA}
	nettest.Check(t, netlink.RouteAdd(learned))
	nettest.Check(t, nft.Set6("wan0/accept_ra", "1"))
	h := w.Home("a", network.DefaultSubnet, false)
	uplink6 := func() string {
		t.Helper()
		nettest.Check(t, h.Ensure(t.Context()))
		status, err := h.Status(t.Context())
		nettest.Check(t, err)
		return status.Uplink6
	}
	if got := uplink6(); !strings.Contains(got, "net.ipv6.conf.wan0.accept_ra=2") || nettest.Forwards6(t) != "0" {
		t.Errorf("the uplink is %q, forwarding %s", got, nettest.Forwards6(t))
	}
	one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
	one.Want("hello", "tcp", nettest.InternetAddress+":7")
	nettest.Check(t, h.Stop(t.Context()))
	nettest.Check(t, nft.Set6("wan0/accept_ra", "2"))
	if got := uplink6(); got != "up" || nettest.Forwards6(t) != "1" {
		t.Errorf("the uplink is %q, forwarding %s", got, nettest.Forwards6(t))
	}
	// Another home, whose uplink carries IPv4 alone, does not need it.
	nettest.Check(t, nft.Apply([]nft.Table{{Family: nft.IP4.Table, Name: "banger-host-x"}}))
	nettest.Check(t, h.Stop(t.Context()))
	nettest.Check(t, nft.Remove(nft.IP4.Table, "banger-host-x"))
	if got := nettest.Forwards6(t); got != "0" {
		t.Errorf("forwarding is left %s", got)
	}
}

// The host reaches guests by IPv6 as it does by IPv4, and they it no more than that.
func TestHostReachesGuest6(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, false)
	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Boot(h.Endpoint("one", 2, network.Policy{}))
	conn, err := net.DialTimeout("tcp6", net.JoinHostPort(one.Tap.Address6.Addr().String(), "7"), 5*time.Second)
	nettest.Check(t, err)
	conn.Close()
	one.Want("error", "ping", "fd62:616e:6765::ac1e:fffe")
}
