package network

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func forwards6(t *testing.T) string {
	t.Helper()
	value, err := os.ReadFile(ip6.forwardSwitch)
	check(t, err)
	return strings.TrimSpace(string(value))
}

// A host without a way out for IPv6 gives its VMs none: IPv4 is as ever, and VMs have IPv6 between each other.
func TestHostWithoutIPv6(t *testing.T) {
	if !inHost(t) {
		return
	}
	for name, rootless := range modes {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			check(t, netlink.RouteDel(defaultRoute6()))
			h := w.home("a", DefaultSubnet, rootless)
			check(t, h.Ensure(t.Context()))
			one, two := h.boot(h.port("one", 2, Policy{NAT: true})), h.boot(h.port("two", 3, Policy{}))
			h.awaitUplink(t)
			status, err := h.Status(t.Context())
			check(t, err)
			if !status.IPv6 || !strings.Contains(status.Uplink6, "default route") {
				t.Errorf("IPv6 %t, its uplink is %q", status.IPv6, status.Uplink6)
			}
			if one.Tap.Gateway6.IsValid() || one.Tap.Address6.String() != "fd62:616e:6765::ac1e:2/112" {
				t.Errorf("the guest is told %+v", one.Tap)
			}
			one.want("hello", "tcp", internetAddress+":7")
			one.want("error", "tcp", otherAddress+":7")
			two.want("error", "tcp", internetAddress+":7")
			one.want("error: dial tcp [2001:db8:1::1]:7: connect: network is unreachable", "tcp", "["+internetAddress6+"]:7")
			one.want("pong", "ping", two.Tap.Address6.Addr().String())
			two.want("NOERROR fd62:616e:6765::ac1e:2", "dns", "one.vm AAAA/udp")
			if got := forwards6(t); got != "0" {
				t.Errorf("the host's IPv6 forwarding is %s", got)
			}
		})
	}
}

// A host that would lose its route by forwarding is left alone, until its owner says that it would not.
func TestLearnedRouteIsKept(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	check(t, netlink.RouteDel(defaultRoute6()))
	wan, err := netlink.LinkByName("wan0")
	check(t, err)
	learned := &netlink.Route{LinkIndex: wan.Attrs().Index, Gw: net.ParseIP(internetAddress6), Protocol: unix.RTPROT_RA}
	check(t, netlink.RouteAdd(learned))
	check(t, set6("wan0/accept_ra", "1"))
	h := w.home("a", DefaultSubnet, false)
	uplink6 := func() string {
		t.Helper()
		check(t, h.Ensure(t.Context()))
		status, err := h.Status(t.Context())
		check(t, err)
		return status.Uplink6
	}
	if got := uplink6(); !strings.Contains(got, "net.ipv6.conf.wan0.accept_ra=2") || forwards6(t) != "0" {
		t.Errorf("the uplink is %q, forwarding %s", got, forwards6(t))
	}
	one := h.boot(h.port("one", 2, Policy{NAT: true}))
	one.want("hello", "tcp", internetAddress+":7")
	check(t, h.Stop(t.Context()))
	check(t, set6("wan0/accept_ra", "2"))
	if got := uplink6(); got != "up" || forwards6(t) != "1" {
		t.Errorf("the uplink is %q, forwarding %s", got, forwards6(t))
	}
	// Another home, whose uplink carries IPv4 alone, does not need it.
	check(t, applyRules([]table{{family: ip4.table, name: hostTablePrefix + "x"}}))
	check(t, h.Stop(t.Context()))
	check(t, removeTable(ip4.table, hostTablePrefix+"x"))
	if got := forwards6(t); got != "0" {
		t.Errorf("forwarding is left %s", got)
	}
}

// The host reaches guests by IPv6 as it does by IPv4, and they it no more than that.
func TestHostReachesGuest6(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, false)
	check(t, h.Ensure(t.Context()))
	one := h.boot(h.port("one", 2, Policy{}))
	conn, err := net.DialTimeout("tcp6", net.JoinHostPort(one.Tap.Address6.Addr().String(), "7"), 5*time.Second)
	check(t, err)
	conn.Close()
	one.want("error", "ping", "fd62:616e:6765::ac1e:fffe")
}

// A VM that opens connections without end has so many, and hinders no other.
func TestConnectionsAreBounded(t *testing.T) {
	if !inHost(t) {
		return
	}
	for name, rootless := range modes {
		t.Run(name, func(t *testing.T) {
			h := newWorld(t).home("a", DefaultSubnet, rootless)
			check(t, h.Ensure(t.Context()))
			one, two := h.boot(h.port("one", 2, Policy{NAT: true})), h.boot(h.port("two", 3, Policy{NAT: true}))
			h.awaitUplink(t)
			for _, internet := range []string{internetAddress, internetAddress6} {
				one.want("hello", "keep", net.JoinHostPort(internet, "7"))
				one.want("sent", "connect", internet)
				names := net.JoinHostPort(internet, "53")
				one.want("error", "ask", names)
				check(t, h.SetPolicy(t.Context(), two.Port.ID, Policy{NAT: true})) // the count outlives a change
				one.want("error", "ask", names)
				one.want("again", "again", "")
				two.want("answered", "ask", names)
			}
			one.want("pong", "ping", two.Port.Address.String())
		})
	}
}

func TestIsPasta(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		line := "/usr/bin/pasta\x00" + strings.Join(pastaArguments(17, ipv6), "\x00") + "\x00"
		if !isPasta(line, 17) || isPasta(line, 18) || isPasta(line+"x\x00", 17) {
			t.Errorf("wrong about %q", line)
		}
	}
}

// A namespace that a holder of an earlier build left has IPv6 turned off; the holder that takes it over turns it on.
func TestEarlierNamespaceIsTakenOver(t *testing.T) {
	if !inHost(t) {
		return
	}
	for name, rootless := range modes {
		t.Run(name, func(t *testing.T) {
			h := newWorld(t).home("a", DefaultSubnet, rootless)
			check(t, h.Ensure(t.Context()))
			one, two := h.boot(h.port("one", 2, Policy{NAT: true})), h.boot(h.port("two", 3, Policy{}))
			h.awaitUplink(t)
			before, err := h.Status(t.Context())
			check(t, err)
			earlier := "echo 1 >" + settings6 + "all/disable_ipv6; echo 1 >" + settings6 + "default/disable_ipv6; /usr/sbin/nft delete table ip6 banger"
			argv := h.Enter(before.HolderPID, []string{"sh", "-ec", earlier})
			if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			one.want("error", "ping", "fd62:616e:6765::ac1e:1")
			kill(t, before.HolderPID, func() bool { return h.notHeld() && syscall.Kill(before.HolderPID, 0) != nil })
			check(t, h.Ensure(t.Context()))
			h.awaitUplink(t)
			await(t, "answer of the gateway", func() bool { // for which a guest asks every second, once it did in vain
				return one.doWithin(shortWait, "ping", "fd62:616e:6765::ac1e:1", "") == "pong"
			})
			one.want("pong", "ping", two.Tap.Address6.Addr().String())
			one.want("hello", "tcp", "["+internetAddress6+"]:7")
			one.want("error", "tcp", "["+otherAddress6+"]:7")
			two.want("error", "tcp", "["+internetAddress6+"]:7")
		})
	}
}
