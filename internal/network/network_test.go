package network

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// modes are the two uplinks; everything a VM sees is the same.
var modes = map[string]bool{"pasta": true, "veth": false}

func TestPolicy(t *testing.T) {
	if !inHost(t) {
		return
	}
	for name, rootless := range modes {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.home("a", DefaultSubnet, rootless)
			began := time.Now()
			check(t, h.Ensure(t.Context()))
			t.Logf("ready in %s", time.Since(began))
			began = time.Now()
			one := h.boot(h.port("one", 2, Policy{NAT: true}))
			t.Logf("attached and booted in %s", time.Since(began))
			two := h.boot(h.port("two", 3, Policy{}))
			alone := h.boot(h.port("alone", 4, Policy{NAT: true, Isolated: true}))
			h.awaitUplink(t)

			one.want("hello", "tcp", internetAddress+":7")
			one.want("answered", "ask", internetAddress+":53")
			one.want("hello 172.30.0.2", "tcp", two.Port.Address.String()+":7")
			one.want("pong", "ping", "172.30.0.1")
			one.want("pong", "ping", two.Port.Address.String())
			alone.want("hello", "tcp", internetAddress+":7")

			alone.want("error", "tcp", one.Port.Address.String()+":7")
			one.want("error", "tcp", alone.Port.Address.String()+":7")
			two.want("error", "tcp", internetAddress+":7")
			two.want("error", "ask", internetAddress+":53")
			for _, host := range []string{hostAddress, otherAddress, "172.30.0.1", "172.30.255.254", "172.30.255.253", "169.254.169.254"} {
				one.want("error", "tcp", host+":7")
			}

			policy6(one, two, alone)

			one.want("NOERROR 172.30.0.3", "dns", "two.vm A/udp")
			one.want("NOERROR fd62:616e:6765::ac1e:3", "dns", "two.vm AAAA/udp")
			two.want("NOERROR one.vm.", "dns", "2.0.0.0.e.1.c.a.0.0.0.0.0.0.0.0.0.0.0.0.5.6.7.6.e.6.1.6.2.6.d.f.ip6.arpa PTR/udp")
			one.want("NOERROR 172.30.0.3", "dns", "TWO.vm A/tcp")
			two.want("NOERROR one.vm.", "dns", "2.0.30.172.in-addr.arpa PTR/udp")
			two.want("NXDOMAIN", "dns", "nobody.vm A/udp")
			two.want("NOERROR 192.0.2.99", "dns", "example.org A/udp")

			for _, internet := range []string{internetAddress + ":7", "[" + internetAddress6 + "]:7"} {
				one.want("hello", "keep", internet)
				check(t, h.SetPolicy(t.Context(), one.Port.ID, Policy{}))
				one.want("error", "again", "")
				one.want("error", "tcp", internet)
				one.want("error", "ask", strings.TrimSuffix(internet, "7")+"53")
				check(t, h.SetPolicy(t.Context(), one.Port.ID, Policy{NAT: true}))
				one.want("hello", "tcp", internet)
			}
			check(t, h.SetPolicy(t.Context(), two.Port.ID, Policy{NAT: true}))
			two.want("hello", "tcp", internetAddress+":7")
			two.want("hello", "tcp", "["+internetAddress6+"]:7")
			spoof(t, one, two)
			spoof6(t, one, two)
		})
	}
}

// policy6 wants of IPv6 what TestPolicy wants of IPv4.
func policy6(one, two, alone *vm) {
	at := func(address string) string { return "[" + address + "]:7" }
	of := func(v *vm) string { return v.Tap.Address6.Addr().String() }
	const gateway = "fd62:616e:6765::ac1e:1"
	one.want("hello", "tcp", at(internetAddress6))
	one.want("hello "+of(one), "tcp", at(of(two)))
	one.want("pong", "ping", gateway)
	one.want("pong", "ping", of(two))
	alone.want("hello", "tcp", at(internetAddress6))
	alone.want("pong", "ping", gateway)

	alone.want("error", "tcp", at(of(one)))
	one.want("error", "tcp", at(of(alone)))
	two.want("error", "tcp", at(internetAddress6))
	for _, host := range []string{hostAddress6, otherAddress6, gateway, "fd62:616e:6765::ac1e:fffe", "fd62:616e:6765::ac1e:fffd", "64:ff9b::1"} {
		one.want("error", "tcp", at(host))
	}
}

// awaitUplink waits until the namespace has its way out: pasta says nothing when it is ready.
func (h *home) awaitUplink(t *testing.T) {
	t.Helper()
	p := h.port("probe", 99, Policy{NAT: true})
	v := h.boot(p)
	await(t, "way out", func() bool {
		return strings.HasPrefix(v.doWithin(shortWait, "tcp", internetAddress+":7", ""), "hello") &&
			v.doWithin(shortWait, "ask", internetAddress+":53", "") == "answered" // not all ways are ready at once
	})
	v.end()
	check(t, h.Detach(t.Context(), p.ID))
}

// spoof has one send frames that are not its own, each followed by one that is, so that their absence is seen at once.
func spoof(t *testing.T, one, two *vm) {
	t.Helper()
	mine, theirs, broadcast := one.Port.MAC, two.Port.MAC, "ff:ff:ff:ff:ff:ff"
	frame := func(to, from, kind, rest string) string {
		return strings.ReplaceAll(to+from, ":", "") + kind + rest
	}
	arp := func(mac, ip, mark string) string {
		return "0001080006040002" + strings.ReplaceAll(mac, ":", "") + ip + "000000000000ac1e0003" + mark
	}
	fragments := func(source, flags, mark string) string { // UDP to 172.30.0.3, with a checksum that br_netfilter believes
		header, _ := hex.DecodeString("450000200000" + flags + "40110000" + source + "ac1e0003")
		var sum uint32
		for i := 0; i < len(header); i += 2 {
			sum += uint32(header[i])<<8 | uint32(header[i+1])
		}
		sum = ^(sum&0xffff + sum>>16)
		header[10], header[11] = byte(sum>>8), byte(sum)
		return hex.EncodeToString(header) + "00070007000c0000" + mark
	}
	packet := func(source, mark string) string { return fragments(source, "0000", mark) }
	rows := []struct {
		name, frame string
		want        bool
	}{
		{"own packet", frame(theirs, mine, "0800", packet("ac1e0002", "deadbe01")), true},
		{"source MAC", frame(theirs, "02:00:00:00:00:99", "0800", packet("ac1e0002", "deadbe02")), false},
		{"source address", frame(theirs, mine, "0800", packet("ac1e0009", "deadbe03")), false},
		{"the gateway's address", frame(theirs, mine, "0800", packet("ac1e0001", "deadbe04")), false},
		{"own ARP", frame(broadcast, mine, "0806", arp(mine, "ac1e0002", "deadbe05")), true},
		{"ARP for the gateway", frame(broadcast, mine, "0806", arp(mine, "ac1e0001", "deadbe06")), false},
		{"ARP of another MAC", frame(broadcast, mine, "0806", arp(theirs, "ac1e0002", "deadbe07")), false},
		{"ARP from another MAC", frame(broadcast, theirs, "0806", arp(mine, "ac1e0002", "deadbe08")), false},
		{"VLAN", frame(theirs, mine, "8100", "00010800"+packet("ac1e0002", "deadbe09")), false},
		{"IPv6", frame(theirs, mine, "86dd", "6000000000040001"+strings.Repeat("00", 32)+"deadbe0a"), false},
		{"by the gateway's MAC", frame(MAC(Gateway(DefaultSubnet)), mine, "0800", packet("ac1e0002", "deadbe0b")), false},
		{"fragment of another", frame(theirs, mine, "0800", fragments("ac1e0009", "2000", "deadbe0c")), false},
	}
	for i, row := range rows {
		mark := row.frame[len(row.frame)-8:]
		after := fmt.Sprintf("cafe%04x", i)
		for _, f := range []string{row.frame, frame(theirs, mine, "0800", packet("ac1e0002", after))} {
			if _, err := hex.DecodeString(f); err != nil {
				t.Fatalf("%s: %v", row.name, err)
			}
			if got := one.do("frame", "", f); got != "sent" {
				t.Fatalf("%s: %s", row.name, got)
			}
		}
		if got := two.do("seen", "", after); got != "true" {
			t.Fatalf("after %s: the honest frame did not come", row.name)
		}
		if got := two.do("have", "", mark); got != fmt.Sprint(row.want) {
			t.Errorf("%s: arrived %s, want %t", row.name, got, row.want)
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	if !inHost(t) {
		return
	}
	for name, rootless := range modes {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before := hostLinks(t)
			forwarded, err := os.ReadFile(ip4.forwardSwitch) // a new namespace has the host's
			forwarded6 := forwards6(t)
			check(t, err)
			h := w.home("a", DefaultSubnet, rootless)
			check(t, h.Ensure(t.Context()))
			check(t, h.Ensure(t.Context()))
			_, err = h.Attach(t.Context(), h.port("one", 2, Policy{}))
			check(t, err)
			check(t, h.Stop(t.Context()))
			check(t, h.Stop(t.Context()))
			if after := hostLinks(t); after != before {
				t.Errorf("links before and after:\n%s\n%s", before, after)
			}
			if forwarding, _ := os.ReadFile(ip4.forwardSwitch); string(forwarding) != string(forwarded) {
				t.Errorf("forwarding was %q and is %q", forwarded, forwarding)
			}
			if now := forwards6(t); now != forwarded6 {
				t.Errorf("IPv6 forwarding was %q and is %q", forwarded6, now)
			}
			files, _ := os.ReadDir(string(h.d))
			for _, f := range files {
				if f.Name() != "lock" && f.Name() != "log" {
					t.Errorf("file %s is left", f.Name())
				}
			}
		})
	}
}

func hostLinks(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	check(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}
