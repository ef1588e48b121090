package keeper_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"banger/internal/network"
	"banger/internal/network/nettest"
	"banger/internal/network/nft"
)

func TestKeeperKilled(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		t.Run(name, func(t *testing.T) {
			h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, rootless)
			nettest.Check(t, h.Ensure(t.Context()))
			one, two := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true})), h.Boot(h.Endpoint("two", 3, network.Policy{}))
			h.AwaitUplink(t)
			before, err := h.Status(t.Context())
			nettest.Check(t, err)
			one.Want("hello", "keep", "172.30.0.3:7")
			nettest.Kill(t, h.KeeperPID(t), h.NotHeld)
			one.Want("again", "again", "")
			one.Want("hello", "tcp", "172.30.0.3:7")
			two.Begin(nettest.LongWait, "ask", "172.30.0.1:53", "") // waits for the next keeper
			one.Begin(nettest.LongWait, "tcp", nettest.InternetAddress+":7", "")

			began := time.Now()
			nettest.Check(t, h.Ensure(t.Context()))
			t.Logf("back in %s", time.Since(began))
			if got := two.Answer(); got != "answered" {
				t.Errorf("a DNS query while there was no keeper: %s", got)
			}
			if got := one.Answer(); !strings.HasPrefix(got, "hello") {
				t.Errorf("a connection that began while there was no keeper: %s", got)
			}
			after, err := h.Status(t.Context())
			nettest.Check(t, err)
			if after.HolderPID != before.HolderPID || len(after.Endpoints) != 2 {
				t.Errorf("the network is another: %+v", after)
			}
			_, err = h.Attach(t.Context(), one.Endpoint)
			nettest.Check(t, err)
			h.AwaitUplink(t)
			one.Want("again", "again", "")
			one.Want("hello", "tcp", nettest.InternetAddress+":7")
			two.Want("error", "tcp", nettest.InternetAddress+":7")
			two.Want("NOERROR 172.30.0.2", "dns", "one.vm A/udp")
			two.Want("NOERROR 192.0.2.99", "dns", "example.org A/tcp")

			one.Want("hello", "keep", nettest.InternetAddress+":7")
			nettest.Kill(t, h.KeeperPID(t), h.NotHeld)
			// The relay went with it, and says so.
			if got := one.Do("again", "", ""); !strings.Contains(got, "connection reset") {
				t.Errorf("a connection of the killed relay: %s", got)
			}
			nettest.Check(t, h.Ensure(t.Context()))
			one.Want("hello", "tcp", nettest.InternetAddress+":7")
		})
	}
}

// A holder that dies, with its keeper or without, is replaced where it was: VMs keep their taps and
// connections.
func TestHolderKilled(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/both=%t", name, both), func(t *testing.T) {
				h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, rootless)
				nettest.Check(t, h.Ensure(t.Context()))
				one, two := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true})), h.Boot(h.Endpoint("two", 3, network.Policy{}))
				h.AwaitUplink(t)
				before, err := h.Status(t.Context())
				nettest.Check(t, err)
				one.Want("hello", "keep", "172.30.0.3:7")
				if both {
					nettest.Kill(t, h.KeeperPID(t), h.NotHeld)
				}
				nettest.Kill(t, before.HolderPID, func() bool { return h.NotHeld() && syscall.Kill(before.HolderPID, 0) != nil })
				one.Want("again", "again", "")

				nettest.Check(t, h.Ensure(t.Context()))
				after, err := h.Status(t.Context())
				nettest.Check(t, err)
				if after.HolderPID == before.HolderPID || len(after.Endpoints) != 2 {
					t.Errorf("got %+v, want another holder with the same endpoints", after)
				}
				_, err = h.Attach(t.Context(), one.Endpoint)
				nettest.Check(t, err)
				one.Want("again", "again", "")
				h.AwaitUplink(t)
				one.Want("hello", "tcp", nettest.InternetAddress+":7")
				two.Want("error", "tcp", nettest.InternetAddress+":7")
				two.Want("NOERROR 172.30.0.2", "dns", "one.vm A/udp")
				spoof(t, one, two)
			})
		}
	}
}

// Without a VM nothing holds the namespace of a holder that dies, and a new one begins.
func TestIdleHolderKilled(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	nettest.Check(t, h.Ensure(t.Context()))
	_, err := h.Attach(t.Context(), h.Endpoint("one", 2, network.Policy{}))
	nettest.Check(t, err)
	status, err := h.Status(t.Context())
	nettest.Check(t, err)
	nettest.Kill(t, status.HolderPID, h.NotHeld)
	nettest.Check(t, h.Ensure(t.Context()))
	again, err := h.Status(t.Context())
	nettest.Check(t, err)
	if again.HolderPID == status.HolderPID || len(again.Endpoints) != 0 {
		t.Errorf("got %+v, want a new namespace", again)
	}
	h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true})).Want("pong", "ping", "172.30.0.1")
}

func TestTwoHomes(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	w := nettest.NewWorld(t)
	first, second := w.Home("a", network.DefaultSubnet, true), w.Home("b", network.DefaultSubnet, true)
	nettest.Check(t, first.Ensure(t.Context()))
	nettest.Check(t, second.Ensure(t.Context()))
	one := first.Boot(first.Endpoint("one", 2, network.Policy{NAT: true}))
	two := second.Boot(second.Endpoint("two", 3, network.Policy{NAT: true}))
	second.AwaitUplink(t)
	one.Want("error", "tcp", "172.30.0.3:7")
	one.Want("NXDOMAIN", "dns", "two.vm A/udp")
	nettest.Check(t, first.Stop(t.Context()))
	two.Want("hello", "tcp", nettest.InternetAddress+":7")
}

func TestHostsAddressesAndResolversAreFollowed(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	w := nettest.NewWorld(t)
	h := w.Home("a", network.DefaultSubnet, true)
	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
	h.AwaitUplink(t)
	// A resolver on the host's loopback, as systemd-resolved's: the keeper reaches it, the guest
	// does not.
	packets, err := net.ListenPacket("udp4", "127.0.0.53:53")
	nettest.Check(t, err)
	defer packets.Close()
	asked := make(chan struct{}, 1)
	go func() {
		if _, _, err := packets.ReadFrom(make([]byte, 512)); err == nil {
			asked <- struct{}{}
		}
	}()
	next := filepath.Join(w.Root, "next")
	nettest.Check(t, os.WriteFile(next, []byte("nameserver 127.0.0.53\n"), 0o600))
	nettest.Check(t, os.Rename(next, filepath.Join(w.Root, "resolv.conf")))
	one.Want("SERVFAIL", "dns", "example.org A/udp")
	select {
	case <-asked:
	default:
		t.Error("the new resolver was not asked")
	}
	nettest.Check(t, nettest.AddAddress("other0", "192.0.2.8/24"))
	nettest.Await(t, "drop of the new address", func() bool {
		return strings.HasPrefix(one.DoWithin(nettest.ShortWait, "tcp", "192.0.2.8:7", ""), "error: dial")
	})
}

// TestManyAddressesAtOnce: more news than the kernel keeps for a keeper does not cost the VMs
// theirs.
func TestManyAddressesAtOnce(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
	h.AwaitUplink(t)
	one.Want("hello", "keep", nettest.InternetAddress+":7")
	keeper := h.KeeperPID(t)
	nettest.Check(t, syscall.Kill(keeper, syscall.SIGSTOP))
	defer syscall.Kill(keeper, syscall.SIGCONT)
	other, err := netlink.LinkByName("other0")
	nettest.Check(t, err)
	passing, err := netlink.ParseAddr("192.0.2.9/32")
	nettest.Check(t, err)
	for range 1000 {
		nettest.Check(t, errors.Join(netlink.AddrAdd(other, passing), netlink.AddrDel(other, passing)))
	}
	nettest.Check(t, nettest.AddAddress("other0", "192.0.2.8/24"))
	nettest.Check(t, syscall.Kill(keeper, syscall.SIGCONT))
	nettest.Await(t, "drop of the new address", func() bool {
		return strings.HasPrefix(one.DoWithin(nettest.ShortWait, "tcp", "192.0.2.8:7", ""), "error: dial")
	})
	one.Want("again", "again", "")
	if now := h.KeeperPID(t); now != keeper {
		t.Errorf("keeper %d has become %d", keeper, now)
	}
}

// The host reaches root's machines, and what it dials for a machine of another home must not.
func TestTwoHomesOfRoot(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	w := nettest.NewWorld(t)
	other := netip.MustParsePrefix("172.31.0.0/16")
	first := w.Home("a", other, false)
	nettest.Check(t, first.Ensure(t.Context()))
	target := first.Endpoint("two", 2, network.Policy{NAT: true})
	target.Address = netip.MustParseAddr("172.31.0.2")
	target.MAC = network.MAC(target.Address)
	first.Boot(target)
	for name, rootless := range nettest.Modes {
		h := w.Home(name, network.DefaultSubnet, rootless)
		nettest.Check(t, h.Ensure(t.Context()))
		one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
		h.AwaitUplink(t)
		one.Want("error", "tcp", "172.31.0.2:7")
		one.Want("error", "tcp", "["+network.Address6(target.Address).String()+"]:7")
		one.Want("hello", "tcp", nettest.InternetAddress+":7")
	}
}

func TestManyTaps(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	nettest.Check(t, h.Ensure(t.Context()))
	var attaching, detaching time.Duration
	for range 20 {
		began := time.Now()
		for i := range byte(50) {
			_, err := h.Attach(t.Context(), h.Endpoint(fmt.Sprint("v", i), 2+i, network.Policy{NAT: true}))
			nettest.Check(t, err)
		}
		attaching += time.Since(began)
		began = time.Now()
		for i := range byte(50) {
			nettest.Check(t, h.Detach(t.Context(), h.Endpoint(fmt.Sprint("v", i), 2+i, network.Policy{}).ID))
		}
		detaching += time.Since(began)
	}
	t.Logf("attach %s, detach %s", attaching/1000, detaching/1000)
	status, err := h.Status(t.Context())
	nettest.Check(t, err)
	if got := nettest.InsideLinks(t, status.HolderPID); strings.Contains(got, "tap") || len(status.Endpoints) != 0 {
		t.Errorf("left: %s, %d endpoints", got, len(status.Endpoints))
	}
}

// TestFlood has one guest ask without end; another is served all the same.
func TestFlood(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	nettest.Check(t, h.Ensure(t.Context()))
	one, two := h.Boot(h.Endpoint("one", 2, network.Policy{})), h.Boot(h.Endpoint("two", 3, network.Policy{}))
	for range 3 {
		one.Want("sent", "flood", "172.30.0.1:53")
		two.Want("NOERROR 172.30.0.2", "dns", "one.vm A/udp")
		two.Want("NOERROR 192.0.2.99", "dns", "example.org A/tcp")
	}
	nettest.Check(t, h.SetPolicy(t.Context(), one.Endpoint.ID, network.Policy{NAT: true}))
	nettest.Check(t, h.SetPolicy(t.Context(), two.Endpoint.ID, network.Policy{NAT: true}))
	h.AwaitUplink(t)
	for range 2 {
		one.Want("sent", "open", "203.0.113.1") // from where no answer comes
		two.Want("hello", "tcp", nettest.InternetAddress+":7")
	}
	if !h.Alive(t) {
		t.Error("the keeper is gone")
	}
}

func TestAttachRefuses(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, false)
	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Endpoint("one", 2, network.Policy{})
	for range 2 {
		_, err := h.Attach(t.Context(), one)
		nettest.Check(t, err)
	}
	other := h.Endpoint("two", 2, network.Policy{})
	if _, err := h.Attach(t.Context(), other); err == nil {
		t.Error("an address was given twice")
	}
	moved := h.Endpoint("one", 3, network.Policy{})
	if _, err := h.Attach(t.Context(), moved); err == nil {
		t.Error("an attached endpoint moved")
	}
	if err := h.SetPolicy(t.Context(), "nobody", network.Policy{}); err == nil || !strings.Contains(err.Error(), network.ErrNotFound.Error()) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	nettest.Check(t, h.Detach(t.Context(), "nobody"))
}

// A VM that opens connections without end has so many, and hinders no other.
func TestConnectionsAreBounded(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		t.Run(name, func(t *testing.T) {
			h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, rootless)
			nettest.Check(t, h.Ensure(t.Context()))
			one, two := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true})), h.Boot(h.Endpoint("two", 3, network.Policy{NAT: true}))
			h.AwaitUplink(t)
			for _, internet := range []string{nettest.InternetAddress, nettest.InternetAddress6} {
				one.Want("hello", "keep", net.JoinHostPort(internet, "7"))
				one.Want("sent", "connect", internet)
				names := net.JoinHostPort(internet, "53")
				one.Want("error", "ask", names)
				// the count outlives a change
				nettest.Check(t, h.SetPolicy(t.Context(), two.Endpoint.ID, network.Policy{NAT: true}))
				one.Want("error", "ask", names)
				one.Want("again", "again", "")
				two.Want("answered", "ask", names)
			}
			one.Want("pong", "ping", two.Endpoint.Address.String())
		})
	}
}

// A namespace that a holder of an earlier build left has IPv6 turned off; the holder that takes it
// over turns it on.
func TestEarlierNamespaceIsTakenOver(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		t.Run(name, func(t *testing.T) {
			h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, rootless)
			nettest.Check(t, h.Ensure(t.Context()))
			one, two := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true})), h.Boot(h.Endpoint("two", 3, network.Policy{}))
			h.AwaitUplink(t)
			before, err := h.Status(t.Context())
			nettest.Check(t, err)
			earlier := "echo 1 >" + nft.Settings6 + "all/disable_ipv6; echo 1 >" + nft.Settings6 + "default/disable_ipv6; /usr/sbin/nft delete table ip6 banger"
			argv := h.Enter(before.HolderPID, []string{"sh", "-ec", earlier})
			if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			one.Want("error", "ping", "fd62:616e:6765::ac1e:1")
			nettest.Kill(t, before.HolderPID, func() bool { return h.NotHeld() && syscall.Kill(before.HolderPID, 0) != nil })
			nettest.Check(t, h.Ensure(t.Context()))
			h.AwaitUplink(t)
			// for which a guest asks every second, once it did in vain
			nettest.Await(t, "answer of the gateway", func() bool {
				return one.DoWithin(nettest.ShortWait, "ping", "fd62:616e:6765::ac1e:1", "") == "pong"
			})
			one.Want("pong", "ping", two.Tap.Address6.Addr().String())
			one.Want("hello", "tcp", "["+nettest.InternetAddress6+"]:7")
			one.Want("error", "tcp", "["+nettest.OtherAddress6+"]:7")
			two.Want("error", "tcp", "["+nettest.InternetAddress6+"]:7")
		})
	}
}

// A holder that stands still keeps nobody from what he only asks for, and loses no change that
// waits for it.
func TestHolderStopped(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
	h.AwaitUplink(t)
	status, err := h.Status(t.Context())
	nettest.Check(t, err)
	nettest.Check(t, syscall.Kill(status.HolderPID, syscall.SIGSTOP))
	resume := sync.OnceFunc(func() { syscall.Kill(status.HolderPID, syscall.SIGCONT) })
	defer resume()
	changed := make(chan error, 2)
	go func() { changed <- h.SetPolicy(t.Context(), one.Endpoint.ID, network.Policy{}) }()
	go func() {
		_, err := h.Attach(t.Context(), h.Endpoint("two", 3, network.Policy{}))
		changed <- err
	}()
	began := time.Now()
	one.Want("NOERROR 172.30.0.2", "dns", "one.vm A/udp")
	one.Want("NOERROR 192.0.2.99", "dns", "example.org A/tcp")
	one.Want("hello", "tcp", nettest.InternetAddress+":7")
	status, err = h.Status(t.Context())
	nettest.Check(t, err)
	if len(status.Endpoints) != 1 || !status.Endpoints[0].NAT {
		t.Errorf("status tells of endpoints that the holder has not made: %+v", status.Endpoints)
	}
	t.Logf("all answered within %s", time.Since(began))
	resume()
	nettest.Check(t, errors.Join(<-changed, <-changed))
	one.Want("error", "tcp", nettest.InternetAddress+":7")
	one.Want("NOERROR 172.30.0.3", "dns", "two.vm A/udp")
}

// Of two keepers that start at once one serves, and whoever started the other one is served too.
func TestStartedTwice(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	started := make(chan error, 4)
	for range cap(started) {
		go func() { started <- h.Ensure(t.Context()) }()
	}
	for range cap(started) {
		nettest.Check(t, <-started)
	}
}
