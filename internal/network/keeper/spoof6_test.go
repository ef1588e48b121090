package keeper_test

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"banger/internal/network"
	"banger/internal/network/nettest"
)

// frame6 is an IPv6 packet in a frame, in hexadecimal digits.
type frame6 struct {
	toMAC, fromMAC string
	source, target string // addresses
	next           byte   // what the packet holds
	payload        string
}

func (f frame6) String() string {
	digits := func(address string) string { return hex.EncodeToString(netip.MustParseAddr(address).AsSlice()) }
	return strings.ReplaceAll(f.toMAC+f.fromMAC, ":", "") + "86dd" +
		fmt.Sprintf("60000000%04x%02xff", len(f.payload)/2, f.next) + digits(f.source) + digits(f.target) + f.payload
}

// message6 is an ICMPv6 message of neighbour discovery about an address.
func message6(kind byte, about, mark string) string {
	return fmt.Sprintf("%02x00000060000000", kind) + hex.EncodeToString(netip.MustParseAddr(about).AsSlice()) + mark
}

// spoof6 is spoof for IPv6: addresses and MACs of others, and what only routers may say.
func spoof6(t *testing.T, one, two *nettest.VM) {
	t.Helper()
	const udp, icmp, hopByHop, fragment = 17, 58, 0, 44
	const solicit, advert, routers, redirect, listeners = 135, 136, 134, 137, 143
	mac, err := net.ParseMAC(one.Endpoint.MAC)
	nettest.Check(t, err)
	theirMAC, err := net.ParseMAC(two.Endpoint.MAC)
	nettest.Check(t, err)
	mine, theirs, local := one.Tap.Address6.Addr().String(), two.Tap.Address6.Addr().String(), network.LinkLocal(mac).String()
	gateway, gatewayMAC := network.Address6(network.Gateway(network.DefaultSubnet)).
		String(),
		network.MAC(
			network.Gateway(network.DefaultSubnet),
		)
	const all, allMAC = "ff02::1", "33:33:00:00:00:01"
	honest := frame6{two.Endpoint.MAC, one.Endpoint.MAC, mine, theirs, udp, ""}
	packet := func(mark string) string { return "00070007000c0000" + mark }
	with := func(edit func(*frame6)) frame6 { f := honest; edit(&f); return f }
	say := func(source, payload string) frame6 {
		return frame6{allMAC, one.Endpoint.MAC, source, all, icmp, payload}
	}
	rows := []struct {
		name  string
		frame frame6
		want  bool
	}{
		{"own packet", with(func(f *frame6) { f.payload = packet("feed0001") }), true},
		{"own link-local address", with(func(f *frame6) { f.source, f.payload = local, packet("feed0002") }), true},
		{"source MAC", with(func(f *frame6) { f.fromMAC, f.payload = "02:00:00:00:00:99", packet("feed0003") }), false},
		{
			"their MAC and address",
			with(func(f *frame6) { f.fromMAC, f.source, f.payload = two.Endpoint.MAC, theirs, packet("feed0004") }),
			false,
		},
		{"source address", with(func(f *frame6) { f.source, f.payload = theirs, packet("feed0005") }), false},
		{"the gateway's address", with(func(f *frame6) { f.source, f.payload = gateway, packet("feed0006") }), false},
		{"no address", with(func(f *frame6) { f.source, f.payload = "::", packet("feed0007") }), false},
		{"another link-local address", with(func(f *frame6) { f.source, f.payload = "fe80::1", packet("feed0008") }), false},
		{"by the gateway's MAC", with(func(f *frame6) { f.toMAC, f.payload = gatewayMAC, packet("feed0009") }), false},
		{"by the gateway's MAC, link-local", with(func(f *frame6) {
			f.toMAC, f.target, f.payload = gatewayMAC, network.LinkLocal(theirMAC).String(), packet("feed000a")
		}), false},
		{"solicitation", say(mine, message6(solicit, theirs, "feed000b")), true},
		{"own advertisement", say(mine, message6(advert, mine, "feed000c")), true},
		{"own link-local advertisement", say(local, message6(advert, local, "feed000d")), true},
		{"advertisement for another", say(mine, message6(advert, theirs, "feed000e")), false},
		{"advertisement for the gateway", say(local, message6(advert, gateway, "feed000f")), false},
		{"advertisement from another", say(theirs, message6(advert, mine, "feed0010")), false},
		{"solicitation from another", say(gateway, message6(solicit, mine, "feed0011")), false},
		{"probe for a duplicate", say("::", message6(solicit, theirs, "feed0012")), false},
		{"router's advertisement", say(local, message6(routers, mine, "feed0013")), false},
		{"redirect", say(local, message6(redirect, mine, "feed0014")), false},
		{"listener's report", say(local, message6(listeners, mine, "feed0015")), false},
		{"router's advertisement behind options", with(func(f *frame6) {
			f.source, f.next, f.payload = local, hopByHop, "3a00010400000000"+message6(routers, mine, "feed0016")
		}), false},
		{"router's advertisement in a fragment", with(func(f *frame6) {
			f.source, f.next, f.payload = local, fragment, "3a00000100000001"+message6(routers, mine, "feed0017")
		}), false},
		{"advertisement cut before its address", with(func(f *frame6) {
			f.next, f.payload = fragment, "3a00000100000002"+"88000000feed0018"
		}), false},
		{"rest of an ICMPv6 message", with(func(f *frame6) {
			f.next, f.payload = fragment, "3a00000800000002"+"0000000000000000feed0019"
		}), false},
	}
	for i, row := range rows {
		text := row.frame.String()
		after := fmt.Sprintf("cafe1%03x", i)
		for _, f := range []string{text, with(func(f *frame6) { f.payload = packet(after) }).String()} {
			if got := one.Do("frame", "", f); got != "sent" {
				t.Fatalf("%s: %s", row.name, got)
			}
		}
		if got := two.Do("seen", "", after); got != "true" {
			t.Fatalf("after %s: the honest frame did not come", row.name)
		}
		if got := two.Do("have", "", text[len(text)-8:]); got != fmt.Sprint(row.want) {
			t.Errorf("%s: arrived %s, want %t", row.name, got, row.want)
		}
	}
}

// pasta opens sockets on the host for what it is sent: the host's loopback must not be among the
// places, by whatever name.
func TestLoopbackIsHidden6(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, true)
	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
	h.AwaitUplink(t)
	listener, err := net.ListenPacket("udp", ":7777") // IPv4 and IPv6
	nettest.Check(t, err)
	defer listener.Close()
	for _, to := range []string{"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:" + nettest.HostAddress, "fe80::1", nettest.HostAddress6, nettest.OtherAddress6} {
		packet := frame6{
			network.MAC(network.Gateway(network.DefaultSubnet)),
			one.Endpoint.MAC,
			one.Tap.Address6.Addr().String(),
			to,
			17,
			"1e621e6100090000" + "61",
		}
		if got := one.Do("frame", "", packet.checksummed(t)); got != "sent" {
			t.Fatal(got)
		}
		// by then pasta has seen the packet, had it come
		one.Want("answered", "ask", "["+nettest.InternetAddress6+"]:53")
		nettest.Check(t, listener.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		if n, from, err := listener.ReadFrom(make([]byte, 9)); err == nil {
			t.Errorf("%s: the host got %d bytes from %s", to, n, from)
		}
	}
}

// checksummed is a frame with the checksum of its UDP header (RFC 8200, 8.1) filled in.
func (f frame6) checksummed(t *testing.T) string {
	t.Helper()
	payload, err := hex.DecodeString(f.payload)
	nettest.Check(t, err)
	pseudo := append(netip.MustParseAddr(f.source).AsSlice(), make([]byte, 16)...)
	target := netip.MustParseAddr(f.target).As16()
	copy(pseudo[16:], target[:])
	pseudo = append(pseudo, 0, 0, 0, byte(len(payload)), 0, 0, 0, f.next)
	all := append(pseudo, payload...)
	if len(all)%2 != 0 {
		all = append(all, 0)
	}
	var sum uint32
	for i := 0; i < len(all); i += 2 {
		sum += uint32(all[i])<<8 | uint32(all[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	payload[6], payload[7] = byte(^sum>>8), byte(^sum)
	f.payload = hex.EncodeToString(payload)
	return f.String()
}
