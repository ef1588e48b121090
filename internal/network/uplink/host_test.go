package uplink_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"banger/internal/home"
	"banger/internal/network"
	"banger/internal/network/nettest"
	"banger/internal/network/nft"
	"banger/internal/network/uplink"
)

func TestPastaKilled(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	nettest.Check(t, h.Ensure(t.Context()))
	h.AwaitUplink(t)
	note, err := os.ReadFile(h.Dir().PastaPID())
	nettest.Check(t, err)
	var pid, holder int
	_, err = fmt.Sscanf(string(note), "%d %d", &pid, &holder)
	nettest.Check(t, err)
	nettest.Kill(t, pid, func() bool {
		now, err := os.ReadFile(h.Dir().PastaPID())
		return err == nil && len(now) > 0 && !bytes.Equal(now, note)
	})
	h.AwaitUplink(t)
}

func TestPastaMissing(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	t.Setenv("PATH", t.TempDir())
	err := h.Ensure(t.Context())
	if err == nil || !strings.Contains(err.Error(), "package passt") {
		t.Errorf("got %v, want an error that names the package", err)
	}
	if !h.NotHeld() {
		t.Error("the keeper lives")
	}
}

func TestSubnetConflict(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	w := nettest.NewWorld(t)
	err := w.Home("a", netip.MustParsePrefix("198.51.0.0/16"), true).Ensure(t.Context())
	if err == nil || !strings.Contains(err.Error(), "wan0") {
		t.Errorf("got %v, want the route in conflict", err)
	}
	nettest.Check(t, w.Home("b", network.DefaultSubnet, false).Ensure(t.Context()))
	if err := w.Home("c", network.DefaultSubnet, false).Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "BANGER_SUBNET") {
		t.Errorf("got %v, want that the other home has the subnet", err)
	}
	nettest.Check(t, w.Home("d", network.DefaultSubnet, true).Ensure(t.Context())) // which shares no routes
}

// A host whose link has larger packets than a tap takes, such as a container's, gives its machines
// as large ones as that does.
func TestLargePackets(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, false)
	wan, err := netlink.LinkByName("wan0")
	nettest.Check(t, err)
	nettest.Check(t, netlink.LinkSetMTU(wan, 65535))
	nettest.Check(t, h.Ensure(t.Context()))
	tap, err := h.Attach(t.Context(), h.Endpoint("one", 2, network.Policy{}))
	if err != nil || tap.MTU != 65520 {
		t.Errorf("got %+v, %v, want a tap with 65520", tap, err)
	}
}

// TestHostReachesGuest is what a veth uplink has beyond pasta.
func TestHostReachesGuest(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, false)
	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Boot(h.Endpoint("one", 2, network.Policy{}))
	conn, err := net.DialTimeout("tcp4", one.Endpoint.Address.String()+":7", 5*time.Second)
	nettest.Check(t, err)
	conn.Close()
}

// The host asks the gateway for names of VMs once it was told to, and whenever the network comes
// up.
func TestRouteDNS(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	bin := t.TempDir()
	calls := filepath.Join(bin, "calls")
	nettest.Check(t, os.WriteFile(filepath.Join(bin, "resolvectl"), []byte("#!/bin/sh\necho \"$@\" >>"+calls+"\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	told := func() string {
		text, err := os.ReadFile(calls)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		nettest.Check(t, os.WriteFile(calls, nil, 0o600))
		return string(text)
	}
	w := nettest.NewWorld(t)
	h := w.Home("a", network.DefaultSubnet, false)
	nettest.Check(t, h.Ensure(t.Context()))
	_, err := h.Attach(t.Context(), h.Endpoint("one", 2, network.Policy{}))
	nettest.Check(t, err)
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network}
		reply, _, err := client.ExchangeContext(t.Context(), new(dns.Msg).SetQuestion("one.vm.", dns.TypeA), "172.30.0.1:53")
		if err != nil || len(reply.Answer) != 1 || !strings.HasSuffix(reply.Answer[0].String(), "172.30.0.2") {
			t.Errorf("the host asks by %s: %v, %v", network, reply, err)
		}
	}
	if got := told(); got != "" || uplink.DNSRouted(h.Dir()) {
		t.Errorf("nobody asked for it, but resolved was told %q", got)
	}
	link := hostLink(t)
	route := "dns " + link + " 172.30.0.1\ndomain " + link + " ~vm\ndefault-route " + link + " false\n"
	nettest.Check(t, uplink.RouteDNS(t.Context(), h.Client))
	if got := told(); got != "status\n"+route || !uplink.DNSRouted(h.Dir()) {
		t.Errorf("resolved was told\n%s", got)
	}
	nettest.Check(t, h.Stop(t.Context()))
	nettest.Check(t, h.Ensure(t.Context()))
	if got := told(); got != route {
		t.Errorf("when the network came up, resolved was told\n%s", got)
	}
	for _, want := range []string{"revert " + link + "\n", ""} {
		nettest.Check(t, uplink.UnrouteDNS(t.Context(), h.Client))
		if got := told(); got != want || uplink.DNSRouted(h.Dir()) {
			t.Errorf("resolved was told %q, want %q", got, want)
		}
	}
	if err := uplink.RouteDNS(t.Context(), network.NewClient(home.Dir(w.Root), true, nil)); err == nil {
		t.Error("an ordinary user's network was routed")
	}
}

// Purge leaves nothing, whatever was killed before.
func TestPurge(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		for _, killed := range []string{"nothing", "keeper", "both"} {
			t.Run(name+"/"+killed, func(t *testing.T) {
				w := nettest.NewWorld(t)
				before := nettest.HostLinks(t)
				forwarded, err := os.ReadFile(nft.IP4.ForwardSwitch) // a new namespace has the host's
				forwarded6 := nettest.Forwards6(t)
				nettest.Check(t, err)
				h := w.Home("a", network.DefaultSubnet, rootless)
				nettest.Check(t, uplink.Purge(t.Context(), h.Client)) // of a home that never had one
				nettest.Check(t, h.Ensure(t.Context()))
				_, err = h.Attach(t.Context(), h.Endpoint("one", 2, network.Policy{}))
				nettest.Check(t, err)
				status, err := h.Status(t.Context())
				nettest.Check(t, err)
				keeper := h.KeeperPID(t)
				if killed != "nothing" {
					nettest.Kill(t, keeper, func() bool { held, err := h.Running(); return err == nil && !held })
				}
				if killed == "both" {
					nettest.Kill(t, status.HolderPID, func() bool { return syscall.Kill(status.HolderPID, 0) != nil })
				}
				for range 2 {
					nettest.Check(t, uplink.Purge(t.Context(), h.Client))
				}
				if after := nettest.HostLinks(t); after != before {
					t.Errorf("links before and after:\n%s\n%s", before, after)
				}
				if rules := nettest.NFT(t, "list ruleset"); strings.Contains(rules, "banger") {
					t.Errorf("rules are left:\n%s", rules)
				}
				if forwarding, _ := os.ReadFile(nft.IP4.ForwardSwitch); string(forwarding) != string(forwarded) {
					t.Errorf("forwarding was %q and is %q", forwarded, forwarding)
				}
				if now := nettest.Forwards6(t); now != forwarded6 {
					t.Errorf("IPv6 forwarding was %q and is %q", forwarded6, now)
				}
				nettest.Await(t, "end of the holder", func() bool { return syscall.Kill(status.HolderPID, 0) != nil })
			})
		}
	}
}

// hostLink is the name of the host's end of a veth uplink.
func hostLink(t *testing.T) string {
	t.Helper()
	for name := range strings.FieldsSeq(nettest.HostLinks(t)) {
		if strings.HasPrefix(name, "bgr-") {
			return name
		}
	}
	t.Fatal("the host has no link of a veth uplink")
	return ""
}
