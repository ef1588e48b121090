package netcfg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/guestd/nstest"
)

// plugVeth makes a card called eth0 in the namespace of the test.
func plugVeth(t *testing.T) netlink.Link {
	t.Helper()
	attrs := netlink.LinkAttrs{Name: "eth0", HardwareAddr: mac1}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer0"}); err != nil {
		t.Fatal(err)
	}
	if err := Raise("peer0"); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// guestFolders are those of a guest in which the image has the files of a Debian.
func guestFolders(t *testing.T) Folders {
	t.Helper()
	return Folders{Etc: t.TempDir(), Run: t.TempDir()}
}

// show is what the kernel has of eth0, in lines: the link, then its addresses and the routes by it,
// sorted. It is this kernel that says it, so that what is compared is what a guest would see.
func show(t *testing.T) []string {
	t.Helper()
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, a := range addresses {
		line := "address " + a.IPNet.String()
		if a.Broadcast != nil {
			line += " broadcast " + a.Broadcast.String()
		}
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && !a.IP.IsLinkLocalUnicast() {
			line += " not ready"
		}
		lines = append(lines, line)
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil {
			lines = append(lines, fmt.Sprintf("route %s via %s", r.Dst, r.Gw))
		}
	}
	slices.Sort(lines)
	a := link.Attrs()
	return append([]string{fmt.Sprintf("%s mtu %d %s", a.HardwareAddr, a.MTU, a.Flags&net.FlagUp)}, lines...)
}

func checkShow(t *testing.T, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, show(t)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// checkWay checks from which address the kernel speaks to hosts beyond the gateways, and by which
// of these.
func checkWay(t *testing.T, to, via, from string) {
	t.Helper()
	routes, err := netlink.RouteGet(net.ParseIP(to))
	if err != nil || len(routes) != 1 || routes[0].Gw.String() != via || routes[0].Src.String() != from {
		t.Errorf("the way to %s: %v, %v, want via %s from %s", to, routes, err, via, from)
	}
}

// A machine boots, changes its name in the world, and then another time; each time twice, for that
// must change nothing. What its user added survives, and nothing is left of what it was before.
func TestApply(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET) {
		return
	}
	link, at := plugVeth(t), guestFolders(t)
	apply := func(line string) {
		t.Helper()
		for range 2 {
			if err := Apply(at, "eth0", parse(t, line)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const first = "address=172.30.0.5/16 gateway=172.30.0.1 address6=fd00::5/112 gateway6=fd00::1 mtu=1400 dns=172.30.0.1"
	apply(first)
	checkShow(t, "after boot", "02:00:00:00:00:01 mtu 1400 up",
		"address 172.30.0.5/16 broadcast 172.30.255.255", "address fd00::5/112", "address fe80::ff:fe00:1/64",
		"route 0.0.0.0/0 via 172.30.0.1", "route ::/0 via fd00::1")
	checkWay(t, "192.0.2.1", "172.30.0.1", "172.30.0.5")
	checkWay(t, "2001:db8::1", "fd00::1", "fd00::5")

	addUsers(t, link)
	const users = "address 192.168.7.7/24 broadcast 192.168.7.255"
	apply("mac=02:00:00:00:00:02 address=172.30.0.6/16 gateway=172.30.0.1 address6=fd00::6/112 gateway6=fd00::1 mtu=1500")
	checkShow(t, "in the same subnet", "02:00:00:00:00:02 mtu 1500 up",
		"address 172.30.0.6/16 broadcast 172.30.255.255", "address 172.30.0.77/16 broadcast 172.30.255.255", users,
		"address fd00::6/112", "address fe80::77/64", "address fe80::ff:fe00:2/64",
		"route 0.0.0.0/0 via 172.30.0.1", "route 0.0.0.0/0 via 172.30.0.200", "route 10.9.0.0/16 via 172.30.0.1",
		"route ::/0 via fd00::1")
	checkWay(t, "2001:db8::1", "fd00::1", "fd00::6")

	apply("mac=02:00:00:00:00:03 address=10.0.0.9/24 gateway=10.0.0.1")
	checkShow(t, "in another subnet, without IPv6", "02:00:00:00:00:03 mtu 1500 up",
		"address 10.0.0.9/24 broadcast 10.0.0.255", "address 172.30.0.77/16 broadcast 172.30.255.255", users,
		"address fe80::77/64", "address fe80::ff:fe00:3/64",
		"route 0.0.0.0/0 via 10.0.0.1", "route 0.0.0.0/0 via 172.30.0.200", "route 10.9.0.0/16 via 172.30.0.1")
	checkWay(t, "192.0.2.1", "10.0.0.1", "10.0.0.9")

	apply("")
	checkShow(t, "with nothing", "02:00:00:00:00:03 mtu 1500 up",
		"address 172.30.0.77/16 broadcast 172.30.255.255", users, "address fe80::77/64", "address fe80::ff:fe00:3/64",
		"route 0.0.0.0/0 via 172.30.0.200", "route 10.9.0.0/16 via 172.30.0.1")
	if b, err := os.ReadFile(settings4 + "eth0/promote_secondaries"); strings.TrimSpace(string(b)) != "0" {
		t.Errorf("promote_secondaries is %q, %v, want it back at 0", b, err)
	}
}

// addUsers gives the card what only somebody in the guest would.
func addUsers(t *testing.T, link netlink.Link) {
	t.Helper()
	for _, a := range []string{"172.30.0.77/16", "192.168.7.7/24", "fe80::77/64"} {
		p := netip.MustParsePrefix(a)
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}); err != nil {
			t.Fatal(err)
		}
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("10.9.0.0/16")),
		Gw: net.IPv4(172, 30, 0, 1),
	}
	spare := defaultRoute(link, netip.MustParseAddr("172.30.0.200"))
	spare.Priority = 50
	if err := errors.Join(netlink.RouteAdd(route), netlink.RouteAdd(spare)); err != nil {
		t.Fatal(err)
	}
}

// A machine that booted without a network of ours, and by whose card a tunnel is the default route,
// gets one.
func TestApplyFirst(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET) {
		return
	}
	link := plugVeth(t)
	if err := Raise("eth0"); err != nil {
		t.Fatal(err)
	}
	tunnel := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")),
		Scope: unix.RT_SCOPE_LINK,
	}
	if err := netlink.RouteAdd(tunnel); err != nil {
		t.Fatal(err)
	}
	if err := Apply(guestFolders(t), "eth0",
		parse(t, "mac=02:00:00:00:00:02 address=10.0.0.9/24 gateway=10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	checkShow(t, "first", "02:00:00:00:00:02 mtu 1500 up",
		"address 10.0.0.9/24 broadcast 10.0.0.255", "address fe80::ff:fe00:2/64")
	checkWay(t, "192.0.2.1", "<nil>", "10.0.0.9")
}

// The addresses outlast that somebody sets the card down and up.
func TestApplyOutlastsDown(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET) {
		return
	}
	link := plugVeth(t)
	if err := Apply(guestFolders(t), "eth0", testNetwork); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetDown(link), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"address 172.30.0.5/16 broadcast 172.30.255.255", "address fd00::5/112"} {
		if got := show(t); !slices.Contains(got, want) {
			t.Errorf("got %q, want %s among it", got, want)
		}
	}
}

// A kernel without IPv6, here on one interface, is no error, and network managers are not told of
// addresses of it.
func TestApplyWithoutIPv6(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET) {
		return
	}
	plugVeth(t)
	at := guestFolders(t)
	if err := os.WriteFile(settings6+"eth0/disable_ipv6", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	small := testNetwork
	small.MTU = 1000 // for which the kernel takes the interface's IPv6 away
	for _, c := range []Config{testNetwork, small} {
		if err := Apply(at, "eth0", c); err != nil {
			t.Fatal(err)
		}
		checkShow(t, "without IPv6", fmt.Sprintf("02:00:00:00:00:01 mtu %d up", c.MTU),
			"address 172.30.0.5/16 broadcast 172.30.255.255", "route 0.0.0.0/0 via 172.30.0.1")
		b, err := os.ReadFile(filepath.Join(at.Run, "systemd/network/00-banger.network"))
		if err != nil || strings.Contains(string(b), "fd00::") {
			t.Errorf("networkd is told %q, %v", b, err)
		}
	}
}

// Each setting that the kernel refuses is named in the error, and the Apply that follows puts all
// right.
func TestApplyErrors(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET) {
		return
	}
	at := guestFolders(t)
	checkErr(t, Apply(at, "eth0", testNetwork), "find eth0")
	plugVeth(t)
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"ErrMTU", func(c *Config) { c.MTU = 1 }, "set MTU of eth0 to 1"},
		{"ErrMAC", func(c *Config) { c.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }, "give eth0 the MAC 01:00:00:00:00:01"},
		{
			"ErrAddress6", func(c *Config) { c.Address6 = netip.MustParsePrefix("ff02::1/64") },
			"give eth0 the address ff02::1/64",
		},
		{"ErrGateway", func(c *Config) {
			c.Address, c.MAC = netip.MustParsePrefix("10.0.0.9/24"), mac2
			c.Gateway = netip.MustParseAddr("192.0.2.1")
		}, "route by gateway 192.0.2.1"},
		{"ErrGateway6", func(c *Config) { c.Gateway6 = netip.MustParseAddr("2001:db8::1") }, "route by gateway 2001:db8::1"},
	}
	for _, tt := range tests {
		wrong := testNetwork
		tt.change(&wrong)
		checkErr(t, Apply(at, "eth0", wrong), tt.want)
		right := testNetwork
		right.MAC = mac1
		if err := Apply(at, "eth0", right); err != nil {
			t.Fatalf("after %s: %v", tt.name, err)
		}
		checkShow(t, "after "+tt.name, "02:00:00:00:00:01 mtu 1400 up",
			"address 172.30.0.5/16 broadcast 172.30.255.255", "address fd00::5/112", "address fe80::ff:fe00:1/64",
			"route 0.0.0.0/0 via 172.30.0.1", "route ::/0 via fd00::1")
	}
}

// Each file that can not be written fails the call, which names it.
func TestApplyFileErrors(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET) {
		return
	}
	plugVeth(t)
	tests := []struct{ name, file, content, want string }{
		{"ErrGivenFolder", "run/banger", "", "not a directory"},
		{"ErrGivenBroken", "run/banger/network.json", "[", "network.json: unexpected end of JSON input"},
		{"ErrGivenMAC", "run/banger/network.json", `[{"MAC":"AQ=="}]`, "network.json: a MAC of 1 bytes"},
		{"ErrGivenAddress", "run/banger/network.json", `[{"Address":"x"}]`, "network.json: "},
		{"ErrGivenLong", "run/banger/network.json", strings.Repeat(" ", maxGivenBytes+1), "too long"},
		{"ErrManager", "run/systemd", "", "make folder: "},
		{"ErrManagerFile", "run/ifstate/folder", "", "ifstate: is a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := t.TempDir()
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(base, tt.file)), 0o755),
				os.MkdirAll(base+"/etc", 0o755),
				os.WriteFile(filepath.Join(base, tt.file), []byte(tt.content), 0o644)); err != nil {
				t.Fatal(err)
			}
			checkErr(t, Apply(Folders{Etc: base + "/etc", Run: base + "/run"}, "eth0", testNetwork), tt.want)
		})
	}
}

// Raise gives loopback its addresses.
func TestRaise(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET) {
		return
	}
	if err := Raise("lo"); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen on loopback: %v", err)
	}
	conn.Close()
	checkErr(t, Raise("eth0"), "find eth0")
}
