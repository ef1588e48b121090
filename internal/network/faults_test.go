package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// keeperPID finds the keeper by its lock (proc_locks(5) names the holder of a flock).
func (h *home) keeperPID(t *testing.T) int {
	t.Helper()
	info, err := os.Stat(h.d.lock())
	check(t, err)
	locks, err := os.ReadFile("/proc/locks")
	check(t, err)
	inode := fmt.Sprintf(":%d", info.Sys().(*syscall.Stat_t).Ino)
	for line := range strings.Lines(string(locks)) {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[1] == "FLOCK" && strings.HasSuffix(fields[5], inode) {
			pid, err := strconv.Atoi(fields[4])
			check(t, err)
			return pid
		}
	}
	t.Fatal("no process holds the lock")
	return 0
}

// kill ends a process and waits until its pid is gone from the lock or the table, within a deadline.
func kill(t *testing.T, pid int, gone func() bool) {
	t.Helper()
	check(t, syscall.Kill(pid, syscall.SIGKILL))
	await(t, "end of the killed process", gone)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no %s", what)
		}
	}
}

func (h *home) notHeld() bool {
	held, err := h.held()
	return err == nil && !held
}

func TestKeeperKilled(t *testing.T) {
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
			one.want("hello", "keep", "172.30.0.3:7")
			kill(t, h.keeperPID(t), h.notHeld)
			one.want("again", "again", "")
			one.want("hello", "tcp", "172.30.0.3:7")
			two.begin(longWait, "ask", "172.30.0.1:53", "") // waits for the next keeper
			one.begin(longWait, "tcp", internetAddress+":7", "")

			began := time.Now()
			check(t, h.Ensure(t.Context()))
			t.Logf("back in %s", time.Since(began))
			if got := two.answer(); got != "answered" {
				t.Errorf("a DNS query while there was no keeper: %s", got)
			}
			if got := one.answer(); !strings.HasPrefix(got, "hello") {
				t.Errorf("a connection that began while there was no keeper: %s", got)
			}
			after, err := h.Status(t.Context())
			check(t, err)
			if after.HolderPID != before.HolderPID || len(after.Ports) != 2 {
				t.Errorf("the network is another: %+v", after)
			}
			_, err = h.Attach(t.Context(), one.Port)
			check(t, err)
			h.awaitUplink(t)
			one.want("again", "again", "")
			one.want("hello", "tcp", internetAddress+":7")
			two.want("error", "tcp", internetAddress+":7")
			two.want("NOERROR 172.30.0.2", "dns", "one.vm A/udp")
			two.want("NOERROR 192.0.2.99", "dns", "example.org A/tcp")

			one.want("hello", "keep", internetAddress+":7")
			kill(t, h.keeperPID(t), h.notHeld)
			if rootless { // the relay went with it, and says so
				if got := one.do("again", "", ""); !strings.Contains(got, "connection reset") {
					t.Errorf("a connection of the killed relay: %s", got)
				}
			} else {
				one.want("again", "again", "")
			}
			check(t, h.Ensure(t.Context()))
			one.want("hello", "tcp", internetAddress+":7")
		})
	}
}

// A holder that dies, with its keeper or without, is replaced where it was: VMs keep their taps and connections.
func TestHolderKilled(t *testing.T) {
	if !inHost(t) {
		return
	}
	for name, rootless := range modes {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/both=%t", name, both), func(t *testing.T) {
				h := newWorld(t).home("a", DefaultSubnet, rootless)
				check(t, h.Ensure(t.Context()))
				one, two := h.boot(h.port("one", 2, Policy{NAT: true})), h.boot(h.port("two", 3, Policy{}))
				h.awaitUplink(t)
				before, err := h.Status(t.Context())
				check(t, err)
				one.want("hello", "keep", "172.30.0.3:7")
				if both {
					kill(t, h.keeperPID(t), h.notHeld)
				}
				kill(t, before.HolderPID, func() bool { return h.notHeld() && syscall.Kill(before.HolderPID, 0) != nil })
				one.want("again", "again", "")

				check(t, h.Ensure(t.Context()))
				after, err := h.Status(t.Context())
				check(t, err)
				if after.HolderPID == before.HolderPID || len(after.Ports) != 2 {
					t.Errorf("got %+v, want another holder with the same ports", after)
				}
				_, err = h.Attach(t.Context(), one.Port)
				check(t, err)
				one.want("again", "again", "")
				h.awaitUplink(t)
				one.want("hello", "tcp", internetAddress+":7")
				two.want("error", "tcp", internetAddress+":7")
				two.want("NOERROR 172.30.0.2", "dns", "one.vm A/udp")
				spoof(t, one, two)
			})
		}
	}
}

// Without a VM nothing holds the namespace of a holder that dies, and a new one begins.
func TestIdleHolderKilled(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, true)
	check(t, h.Ensure(t.Context()))
	_, err := h.Attach(t.Context(), h.port("one", 2, Policy{}))
	check(t, err)
	status, err := h.Status(t.Context())
	check(t, err)
	kill(t, status.HolderPID, h.notHeld)
	check(t, h.Ensure(t.Context()))
	again, err := h.Status(t.Context())
	check(t, err)
	if again.HolderPID == status.HolderPID || len(again.Ports) != 0 {
		t.Errorf("got %+v, want a new namespace", again)
	}
	h.boot(h.port("one", 2, Policy{NAT: true})).want("pong", "ping", "172.30.0.1")
}

func TestPastaKilled(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, true)
	check(t, h.Ensure(t.Context()))
	h.awaitUplink(t)
	note, err := os.ReadFile(h.d.pastaPID())
	check(t, err)
	var pid, holder int
	_, err = fmt.Sscanf(string(note), "%d %d", &pid, &holder)
	check(t, err)
	kill(t, pid, func() bool {
		now, err := os.ReadFile(h.d.pastaPID())
		return err == nil && len(now) > 0 && !bytes.Equal(now, note)
	})
	h.awaitUplink(t)
}

func TestPastaMissing(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, true)
	t.Setenv("PATH", t.TempDir())
	err := h.Ensure(t.Context())
	if err == nil || !strings.Contains(err.Error(), "package passt") {
		t.Errorf("got %v, want an error that names the package", err)
	}
	if !h.notHeld() {
		t.Error("the keeper lives")
	}
}

func TestSubnetConflict(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	err := w.home("a", netip.MustParsePrefix("198.51.0.0/16"), true).Ensure(t.Context())
	if err == nil || !strings.Contains(err.Error(), "wan0") {
		t.Errorf("got %v, want the route in conflict", err)
	}
	check(t, w.home("b", DefaultSubnet, false).Ensure(t.Context()))
	if err := w.home("c", DefaultSubnet, false).Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "BANGER_SUBNET") {
		t.Errorf("got %v, want that the other home has the subnet", err)
	}
	check(t, w.home("d", DefaultSubnet, true).Ensure(t.Context())) // which shares no routes
}

func TestTwoHomes(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	first, second := w.home("a", DefaultSubnet, true), w.home("b", DefaultSubnet, true)
	check(t, first.Ensure(t.Context()))
	check(t, second.Ensure(t.Context()))
	one := first.boot(first.port("one", 2, Policy{NAT: true}))
	two := second.boot(second.port("two", 3, Policy{NAT: true}))
	second.awaitUplink(t)
	one.want("error", "tcp", "172.30.0.3:7")
	one.want("NXDOMAIN", "dns", "two.vm A/udp")
	check(t, first.Stop(t.Context()))
	two.want("hello", "tcp", internetAddress+":7")
}

// TestHostReachesGuest is what a veth uplink has beyond pasta.
func TestHostReachesGuest(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, false)
	check(t, h.Ensure(t.Context()))
	one := h.boot(h.port("one", 2, Policy{}))
	conn, err := net.DialTimeout("tcp4", one.Port.Address.String()+":7", 5*time.Second)
	check(t, err)
	conn.Close()
}

func TestHostsAddressesAndResolversAreFollowed(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	h := w.home("a", DefaultSubnet, true)
	check(t, h.Ensure(t.Context()))
	one := h.boot(h.port("one", 2, Policy{NAT: true}))
	h.awaitUplink(t)
	// A resolver on the host's loopback, as systemd-resolved's: the keeper reaches it, the guest does not.
	packets, err := net.ListenPacket("udp4", "127.0.0.53:53")
	check(t, err)
	defer packets.Close()
	asked := make(chan struct{}, 1)
	go func() {
		if _, _, err := packets.ReadFrom(make([]byte, 512)); err == nil {
			asked <- struct{}{}
		}
	}()
	next := filepath.Join(w.root, "next")
	check(t, os.WriteFile(next, []byte("nameserver 127.0.0.53\n"), 0o600))
	check(t, os.Rename(next, filepath.Join(w.root, "resolv.conf")))
	one.want("SERVFAIL", "dns", "example.org A/udp")
	select {
	case <-asked:
	default:
		t.Error("the new resolver was not asked")
	}
	check(t, addAddress("other0", "192.0.2.8/24"))
	await(t, "drop of the new address", func() bool {
		return strings.HasPrefix(one.doWithin(shortWait, "tcp", "192.0.2.8:7", ""), "error: dial")
	})
}

// TestManyAddressesAtOnce: more news than the kernel keeps for a keeper does not cost the VMs theirs.
func TestManyAddressesAtOnce(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, true)
	check(t, h.Ensure(t.Context()))
	one := h.boot(h.port("one", 2, Policy{NAT: true}))
	h.awaitUplink(t)
	one.want("hello", "keep", internetAddress+":7")
	keeper := h.keeperPID(t)
	check(t, syscall.Kill(keeper, syscall.SIGSTOP))
	defer syscall.Kill(keeper, syscall.SIGCONT)
	other, err := netlink.LinkByName("other0")
	check(t, err)
	passing, err := netlink.ParseAddr("192.0.2.9/32")
	check(t, err)
	for range 1000 {
		check(t, errors.Join(netlink.AddrAdd(other, passing), netlink.AddrDel(other, passing)))
	}
	check(t, addAddress("other0", "192.0.2.8/24"))
	check(t, syscall.Kill(keeper, syscall.SIGCONT))
	await(t, "drop of the new address", func() bool {
		return strings.HasPrefix(one.doWithin(shortWait, "tcp", "192.0.2.8:7", ""), "error: dial")
	})
	one.want("again", "again", "")
	if now := h.keeperPID(t); now != keeper {
		t.Errorf("keeper %d has become %d", keeper, now)
	}
}

func TestManyTaps(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, true)
	check(t, h.Ensure(t.Context()))
	var attaching, detaching time.Duration
	for range 20 {
		began := time.Now()
		for i := range byte(50) {
			_, err := h.Attach(t.Context(), h.port(fmt.Sprint("v", i), 2+i, Policy{NAT: true}))
			check(t, err)
		}
		attaching += time.Since(began)
		began = time.Now()
		for i := range byte(50) {
			check(t, h.Detach(t.Context(), h.port(fmt.Sprint("v", i), 2+i, Policy{}).ID))
		}
		detaching += time.Since(began)
	}
	t.Logf("attach %s, detach %s", attaching/1000, detaching/1000)
	status, err := h.Status(t.Context())
	check(t, err)
	if got := insideLinks(t, status.HolderPID); strings.Contains(got, "tap") || len(status.Ports) != 0 {
		t.Errorf("left: %s, %d ports", got, len(status.Ports))
	}
}

// insideLinks lists the links of another process's namespace.
func insideLinks(t *testing.T, pid int) string {
	t.Helper()
	ns, err := netns.GetFromPid(pid)
	check(t, err)
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns)
	check(t, err)
	defer handle.Close()
	links, err := handle.LinkList()
	check(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

// TestFlood has one guest ask without end; another is served all the same.
func TestFlood(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, true)
	check(t, h.Ensure(t.Context()))
	one, two := h.boot(h.port("one", 2, Policy{})), h.boot(h.port("two", 3, Policy{}))
	for range 3 {
		one.want("sent", "flood", "172.30.0.1:53")
		two.want("NOERROR 172.30.0.2", "dns", "one.vm A/udp")
		two.want("NOERROR 192.0.2.99", "dns", "example.org A/tcp")
	}
	check(t, h.SetPolicy(t.Context(), one.Port.ID, Policy{NAT: true}))
	check(t, h.SetPolicy(t.Context(), two.Port.ID, Policy{NAT: true}))
	h.awaitUplink(t)
	for range 2 {
		one.want("sent", "open", "203.0.113.1") // from where no answer comes
		two.want("hello", "tcp", internetAddress+":7")
	}
	if !h.alive(t) {
		t.Error("the keeper is gone")
	}
}

func (h *home) alive(t *testing.T) bool {
	t.Helper()
	_, err := h.Status(t.Context())
	return err == nil
}

func TestAttachRefuses(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, false)
	check(t, h.Ensure(t.Context()))
	one := h.port("one", 2, Policy{})
	for range 2 {
		_, err := h.Attach(t.Context(), one)
		check(t, err)
	}
	other := h.port("two", 2, Policy{})
	if _, err := h.Attach(t.Context(), other); err == nil {
		t.Error("an address was given twice")
	}
	moved := h.port("one", 3, Policy{})
	if _, err := h.Attach(t.Context(), moved); err == nil {
		t.Error("an attached port moved")
	}
	if err := h.SetPolicy(t.Context(), "nobody", Policy{}); err == nil || !strings.Contains(err.Error(), ErrNotFound.Error()) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	check(t, h.Detach(t.Context(), "nobody"))
}
