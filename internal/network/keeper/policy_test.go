package keeper_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"banger/internal/network"
	"banger/internal/network/nettest"
	"banger/internal/network/nft"
)

func TestPolicy(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		t.Run(name, func(t *testing.T) {
			w := nettest.NewWorld(t)
			h := w.Home("a", network.DefaultSubnet, rootless)
			began := time.Now()
			nettest.Check(t, h.Ensure(t.Context()))
			t.Logf("ready in %s", time.Since(began))
			began = time.Now()
			one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
			t.Logf("attached and booted in %s", time.Since(began))
			two := h.Boot(h.Endpoint("two", 3, network.Policy{}))
			alone := h.Boot(h.Endpoint("alone", 4, network.Policy{NAT: true, Isolated: true}))
			h.AwaitUplink(t)

			one.Want("hello", "tcp", nettest.InternetAddress+":7")
			one.Want("answered", "ask", nettest.InternetAddress+":53")
			one.Want("hello 172.30.0.2", "tcp", two.Endpoint.Address.String()+":7")
			one.Want("pong", "ping", "172.30.0.1")
			one.Want("pong", "ping", two.Endpoint.Address.String())
			alone.Want("hello", "tcp", nettest.InternetAddress+":7")

			alone.Want("error", "tcp", one.Endpoint.Address.String()+":7")
			one.Want("error", "tcp", alone.Endpoint.Address.String()+":7")
			two.Want("error", "tcp", nettest.InternetAddress+":7")
			two.Want("error", "ask", nettest.InternetAddress+":53")
			for _, host := range []string{nettest.HostAddress, nettest.OtherAddress, "172.30.0.1", "172.30.255.254", "172.30.255.253", "169.254.169.254"} {
				one.Want("error", "tcp", host+":7")
			}

			policy6(one, two, alone)

			one.Want("NOERROR 172.30.0.3", "dns", "two.vm A/udp")
			one.Want("NOERROR fd62:616e:6765::ac1e:3", "dns", "two.vm AAAA/udp")
			two.Want("NOERROR one.vm.", "dns", "2.0.0.0.e.1.c.a.0.0.0.0.0.0.0.0.0.0.0.0.5.6.7.6.e.6.1.6.2.6.d.f.ip6.arpa PTR/udp")
			one.Want("NOERROR 172.30.0.3", "dns", "TWO.vm A/tcp")
			two.Want("NOERROR one.vm.", "dns", "2.0.30.172.in-addr.arpa PTR/udp")
			two.Want("NXDOMAIN", "dns", "nobody.vm A/udp")
			two.Want("NOERROR 192.0.2.99", "dns", "example.org A/udp")

			for _, internet := range []string{nettest.InternetAddress + ":7", "[" + nettest.InternetAddress6 + "]:7"} {
				one.Want("hello", "keep", internet)
				nettest.Check(t, h.SetPolicy(t.Context(), one.Endpoint.ID, network.Policy{}))
				one.Want("error", "again", "")
				one.Want("error", "tcp", internet)
				one.Want("error", "ask", strings.TrimSuffix(internet, "7")+"53")
				nettest.Check(t, h.SetPolicy(t.Context(), one.Endpoint.ID, network.Policy{NAT: true}))
				one.Want("hello", "tcp", internet)
			}
			nettest.Check(t, h.SetPolicy(t.Context(), two.Endpoint.ID, network.Policy{NAT: true}))
			two.Want("hello", "tcp", nettest.InternetAddress+":7")
			two.Want("hello", "tcp", "["+nettest.InternetAddress6+"]:7")
			spoof(t, one, two)
			spoof6(t, one, two)
		})
	}
}

// policy6 wants of IPv6 what TestPolicy wants of IPv4.
func policy6(one, two, alone *nettest.VM) {
	at := func(address string) string { return "[" + address + "]:7" }
	of := func(v *nettest.VM) string { return v.Tap.Address6.Addr().String() }
	const gateway = "fd62:616e:6765::ac1e:1"
	one.Want("hello", "tcp", at(nettest.InternetAddress6))
	one.Want("hello "+of(one), "tcp", at(of(two)))
	one.Want("pong", "ping", gateway)
	one.Want("pong", "ping", of(two))
	alone.Want("hello", "tcp", at(nettest.InternetAddress6))
	alone.Want("pong", "ping", gateway)

	alone.Want("error", "tcp", at(of(one)))
	one.Want("error", "tcp", at(of(alone)))
	two.Want("error", "tcp", at(nettest.InternetAddress6))
	for _, host := range []string{nettest.HostAddress6, nettest.OtherAddress6, gateway, "fd62:616e:6765::ac1e:fffe", "fd62:616e:6765::ac1e:fffd", "64:ff9b::1"} {
		one.Want("error", "tcp", at(host))
	}
}

// spoof has one send frames that are not its own, each followed by one that is, so that their
// absence is seen at once.
func spoof(t *testing.T, one, two *nettest.VM) {
	t.Helper()
	mine, theirs, broadcast := one.Endpoint.MAC, two.Endpoint.MAC, "ff:ff:ff:ff:ff:ff"
	frame := func(to, from, kind, rest string) string {
		return strings.ReplaceAll(to+from, ":", "") + kind + rest
	}
	arp := func(mac, ip, mark string) string {
		return "0001080006040002" + strings.ReplaceAll(mac, ":", "") + ip + "000000000000ac1e0003" + mark
	}
	// UDP to 172.30.0.3, with a checksum that br_netfilter believes
	fragments := func(source, flags, mark string) string {
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
		{"by the gateway's MAC", frame(network.MAC(network.Gateway(network.DefaultSubnet)), mine, "0800", packet("ac1e0002", "deadbe0b")), false},
		{"fragment of another", frame(theirs, mine, "0800", fragments("ac1e0009", "2000", "deadbe0c")), false},
	}
	for i, row := range rows {
		mark := row.frame[len(row.frame)-8:]
		after := fmt.Sprintf("cafe%04x", i)
		for _, f := range []string{row.frame, frame(theirs, mine, "0800", packet("ac1e0002", after))} {
			if _, err := hex.DecodeString(f); err != nil {
				t.Fatalf("%s: %v", row.name, err)
			}
			if got := one.Do("frame", "", f); got != "sent" {
				t.Fatalf("%s: %s", row.name, got)
			}
		}
		if got := two.Do("seen", "", after); got != "true" {
			t.Fatalf("after %s: the honest frame did not come", row.name)
		}
		if got := two.Do("have", "", mark); got != fmt.Sprint(row.want) {
			t.Errorf("%s: arrived %s, want %t", row.name, got, row.want)
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	for name, rootless := range nettest.Modes {
		t.Run(name, func(t *testing.T) {
			w := nettest.NewWorld(t)
			before := nettest.HostLinks(t)
			forwarded, err := os.ReadFile(nft.IP4.ForwardSwitch) // a new namespace has the host's
			forwarded6 := nettest.Forwards6(t)
			nettest.Check(t, err)
			h := w.Home("a", network.DefaultSubnet, rootless)
			nettest.Check(t, h.Ensure(t.Context()))
			nettest.Check(t, h.Ensure(t.Context()))
			_, err = h.Attach(t.Context(), h.Endpoint("one", 2, network.Policy{}))
			nettest.Check(t, err)
			nettest.Check(t, h.Stop(t.Context()))
			nettest.Check(t, h.Stop(t.Context()))
			if after := nettest.HostLinks(t); after != before {
				t.Errorf("links before and after:\n%s\n%s", before, after)
			}
			if forwarding, _ := os.ReadFile(nft.IP4.ForwardSwitch); string(forwarding) != string(forwarded) {
				t.Errorf("forwarding was %q and is %q", forwarded, forwarding)
			}
			if now := nettest.Forwards6(t); now != forwarded6 {
				t.Errorf("IPv6 forwarding was %q and is %q", forwarded6, now)
			}
			files, _ := os.ReadDir(string(h.Dir()))
			for _, f := range files {
				if f.Name() != "lock" && f.Name() != "log" {
					t.Errorf("file %s is left", f.Name())
				}
			}
		})
	}
}
