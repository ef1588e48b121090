package boot

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var equateAddresses = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

var testNetwork = Network{
	Address:     netip.MustParsePrefix("172.30.0.5/16"),
	Gateway:     netip.MustParseAddr("172.30.0.1"),
	Address6:    netip.MustParsePrefix("fd00::5/112"),
	Gateway6:    netip.MustParseAddr("fd00::1"),
	Nameservers: []netip.Addr{netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("9.9.9.9")},
	Search:      "vm",
	MTU:         1400,
}

func TestParseNetwork(t *testing.T) {
	const address = "banger.address=172.30.0.5/16 "
	only := Network{Address: testNetwork.Address}
	tests := []struct {
		name, line string
		want       Network
		wantErr    string
	}{
		{"None", "quiet", Network{}, ""},
		{"All", address + "banger.gateway=172.30.0.1 banger.address6=fd00::5/112 banger.gateway6=fd00::1 banger.dns=172.30.0.1,9.9.9.9 banger.mtu=1400 banger.search=vm", testNetwork, ""},
		{"AddressOnly", address, only, ""},
		{"LastCounts", "banger.address=x " + address, only, ""},
		{"SmallestSubnet", "banger.address=10.0.0.1/30", Network{Address: netip.MustParsePrefix("10.0.0.1/30")}, ""},
		{"ErrNoAddress", "banger.gateway=172.30.0.1", Network{}, "banger.gateway: given without banger.address"},
		{"ErrEmpty", "banger.address=", Network{}, `banger.address="": not an IPv4 address with a prefix length`},
		{"ErrNoPrefix", "banger.address=172.30.0.5", Network{}, "not an IPv4 address with a prefix length"},
		{"ErrZeros", "banger.address=172.030.0.5/16", Network{}, "not an IPv4 address with a prefix length"},
		{"ErrIPv6", "banger.address=fd00::5/64", Network{}, "not an IPv4 address with a prefix length"},
		{"ErrLargeSubnet", "banger.address=10.0.0.5/7", Network{}, "prefix length not 8 to 30"},
		{"ErrSmallSubnet", "banger.address=10.0.0.5/31", Network{}, "prefix length not 8 to 30"},
		{"ErrSubnetItself", "banger.address=172.30.0.0/16", Network{}, "not the address of a host"},
		{"ErrBroadcast", "banger.address=172.30.255.255/16", Network{}, "not the address of a host"},
		{"ErrLoopback", "banger.address=127.0.0.5/8", Network{}, "not the address of a host"},
		{"ErrMulticast", "banger.address=224.0.0.5/8", Network{}, "not the address of a host"},
		{"ErrGateway", address + "banger.gateway=gw", Network{}, `banger.gateway="gw": not the IPv4 address of a host`},
		{"ErrGatewayOutside", address + "banger.gateway=172.31.0.1", Network{}, "not another host of 172.30.0.0/16"},
		{"ErrGatewayItself", address + "banger.gateway=172.30.0.5", Network{}, "not another host of 172.30.0.0/16"},
		{"WithoutGateway6", address + "banger.address6=fd00::5/64", Network{Address: only.Address, Address6: netip.MustParsePrefix("fd00::5/64")}, ""},
		{"ErrOnly6", "banger.address6=fd00::5/64", Network{}, "banger.address6: given without banger.address"},
		{"ErrEmpty6", address + "banger.address6=", Network{}, `banger.address6="": not the IPv6 address of a host with a prefix length`},
		{"ErrNoPrefix6", address + "banger.address6=fd00::5", Network{}, "not the IPv6 address of a host"},
		{"ErrIPv4", address + "banger.address6=172.30.0.5/16", Network{}, "not the IPv6 address of a host"},
		{"ErrMapped", address + "banger.address6=::ffff:172.30.0.5/112", Network{}, "not the IPv6 address of a host"},
		{"ErrZone", address + "banger.address6=fd00::5%eth0/112", Network{}, "not the IPv6 address of a host"},
		{"ErrLinkLocal", address + "banger.address6=fe80::5/64", Network{}, "not the IPv6 address of a host"},
		{"ErrLoopback6", address + "banger.address6=::1/64", Network{}, "not the IPv6 address of a host"},
		{"ErrMulticast6", address + "banger.address6=ff02::5/64", Network{}, "not the IPv6 address of a host"},
		{"ErrLargeSubnet6", address + "banger.address6=fd00::5/63", Network{}, "prefix length not 64 to 126"},
		{"ErrSmallSubnet6", address + "banger.address6=fd00::5/127", Network{}, "prefix length not 64 to 126"},
		{"ErrSubnetItself6", address + "banger.address6=fd00::/64", Network{}, "not the address of a host"},
		{"ErrGateway6", address + "banger.address6=fd00::5/112 banger.gateway6=172.30.0.1", Network{}, `banger.gateway6="172.30.0.1": not the IPv6 address of a host`},
		{"ErrGateway6Alone", address + "banger.gateway6=fd00::1", Network{}, "banger.gateway6=fd00::1: given without an address"},
		{"ErrGateway6Outside", address + "banger.address6=fd00::5/112 banger.gateway6=fd00::1:1", Network{}, "not another host of fd00::/112"},
		{"ErrGateway6Itself", address + "banger.address6=fd00::5/112 banger.gateway6=fd00::5", Network{}, "not another host of fd00::/112"},
		{"ErrDNSEmpty", address + "banger.dns=", Network{}, "not the IPv4 address of a host"},
		{"ErrDNSTrailingComma", address + "banger.dns=9.9.9.9,", Network{}, "not the IPv4 address of a host"},
		{"ErrDNSZone", address + "banger.dns=fe80::1%eth0", Network{}, "not the IPv4 address of a host"},
		{"ErrDNSMany", address + "banger.dns=9.9.9.1,9.9.9.2,9.9.9.3,9.9.9.4", Network{}, "more than 3 name servers"},
		{"ErrMTUSign", address + "banger.mtu=+1500", Network{}, "not 68 to 65535"},
		{"ErrMTUSmall", address + "banger.mtu=67", Network{}, "not 68 to 65535"},
		{"ErrMTULarge", address + "banger.mtu=65536", Network{}, "not 68 to 65535"},
		{"ErrSearch", address + "banger.search=v_m", Network{}, `banger.search="v_m": not a domain`},
		{"ErrSearchLong", address + "banger.search=" + strings.Repeat("a.", 127) + "a", Network{}, "not a domain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseCmdline(tt.line)
			checkErr(t, err, tt.wantErr)
			if diff := cmp.Diff(tt.want, got.Network, equateAddresses); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// plugCard makes a folder as /sys/class/net has it.
func plugCard(t *testing.T, sysNet, name, driver string) {
	t.Helper()
	device := filepath.Join(sysNet, name, "device")
	if err := os.MkdirAll(device, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../bus/virtio/drivers/"+driver, filepath.Join(device, "driver")); err != nil {
		t.Fatal(err)
	}
}

func TestWaitCard(t *testing.T) {
	tests := []struct {
		name          string
		cards         map[string]string
		want, wantErr string
	}{
		{"One", map[string]string{"eth0": "virtio_net"}, "eth0", ""},
		{"First", map[string]string{"eth0": "virtio_net", "eth1": "virtio_net"}, "eth0", ""},
		{"OtherDriver", map[string]string{"eth0": "e1000", "eth1": "virtio_net"}, "eth1", ""},
		{"ErrNone", map[string]string{"eth0": "e1000"}, "", "no virtio-net card (there is: eth0, lo)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sysNet := t.TempDir()
			if err := os.Mkdir(filepath.Join(sysNet, "lo"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, driver := range tt.cards {
				plugCard(t, sysNet, name, driver)
			}
			got, err := waitCard(t.Context(), sysNet, time.Millisecond)
			checkErr(t, err, tt.wantErr)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A card that appears late is found, and the end of the context ends the wait.
func TestWaitCardLate(t *testing.T) {
	sysNet := t.TempDir()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := waitCard(cancelled, sysNet, time.Hour)
	checkErr(t, err, "no virtio-net card")
	done := make(chan string, 1)
	go func() {
		card, _ := waitCard(t.Context(), sysNet, time.Minute)
		done <- card
	}()
	plugCard(t, sysNet, "eth0", "virtio_net")
	if card := <-done; card != "eth0" {
		t.Errorf("got %q, want eth0", card)
	}
}

// The kernel of this machine is asked what it made of the configuration. It is applied twice: a second time changes
// nothing.
func TestApplyNetwork(t *testing.T) {
	if !inNamespace(t, unix.CLONE_NEWNET) {
		return
	}
	if err := raise("lo"); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
		t.Errorf("listen on loopback: %v", err)
	} else {
		conn.Close()
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}); err != nil {
		t.Fatal(err)
	}
	if err := raise("peer0"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := testNetwork.apply("eth0"); err != nil {
			t.Fatal(err)
		}
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if a := link.Attrs(); a.MTU != 1400 || a.Flags&net.FlagUp == 0 {
		t.Errorf("got MTU %d and flags %s, want 1400 and up", a.MTU, a.Flags)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addresses) != 1 || addresses[0].IPNet.String() != "172.30.0.5/16" || addresses[0].Broadcast.String() != "172.30.255.255" {
		t.Errorf("got addresses %v, %v", addresses, err)
	}
	routes, err := netlink.RouteGet(net.ParseIP("2001:db8::1"))
	if err != nil || len(routes) != 1 || routes[0].Gw.String() != "fd00::1" || routes[0].Src.String() != "fd00::5" {
		t.Errorf("got IPv6 routes %v, %v", routes, err)
	}
	routes, err = netlink.RouteGet(net.IPv4(192, 0, 2, 1))
	if err != nil || len(routes) != 1 || routes[0].Gw.String() != "172.30.0.1" || routes[0].Src.String() != "172.30.0.5" {
		t.Errorf("got routes %v, %v", routes, err)
	}
	checkAddress6(t, link)
	if err := errors.Join(netlink.LinkSetDown(link), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	checkAddress6(t, link)
}

// checkAddress6 wants testNetwork's address, ready for use.
func checkAddress6(t *testing.T, link netlink.Link) {
	t.Helper()
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil || !slices.ContainsFunc(addresses, func(a netlink.Addr) bool {
		return a.IPNet.String() == "fd00::5/112" && a.Flags&unix.IFA_F_NODAD != 0 && a.Flags&unix.IFA_F_TENTATIVE == 0
	}) {
		t.Errorf("got IPv6 addresses %v, %v", addresses, err)
	}
}

// A kernel without IPv6, here on one interface, is no error.
func TestApplyNetworkWithoutIPv6(t *testing.T) {
	if !inNamespace(t, unix.CLONE_NEWNET) {
		return
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	small := testNetwork
	small.MTU = 1000 // for which the kernel takes the interface's IPv6 away
	for _, n := range []Network{testNetwork, small} {
		if err := n.apply("eth0"); err != nil {
			t.Fatal(err)
		}
		if hasIPv6("eth0") {
			t.Errorf("with an MTU of %d the interface has IPv6", n.MTU)
		}
	}
}

// Each setting that the kernel refuses is named in the error.
func TestApplyNetworkErrors(t *testing.T) {
	if !inNamespace(t, unix.CLONE_NEWNET) {
		return
	}
	err := testNetwork.apply("eth0")
	checkErr(t, err, "find eth0")
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}); err != nil {
		t.Fatal(err)
	}
	wrong := testNetwork
	wrong.MTU = 1
	checkErr(t, wrong.apply("eth0"), "set MTU of eth0 to 1")
	wrong = testNetwork
	wrong.Gateway = netip.MustParseAddr("192.0.2.1")
	checkErr(t, wrong.apply("eth0"), "route by gateway 192.0.2.1")
	wrong = testNetwork
	wrong.Gateway6 = netip.MustParseAddr("2001:db8::1")
	checkErr(t, wrong.apply("eth0"), "route by gateway 2001:db8::1")
}

func TestManagerFiles(t *testing.T) {
	run := t.TempDir()
	if err := testNetwork.writeManagerFiles(run, "eth0"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"systemd/network/00-banger.network": `[Match]
Name=eth0

[Network]
Address=172.30.0.5/16
KeepConfiguration=yes
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
Gateway=172.30.0.1
Gateway=fd00::1
DNS=172.30.0.1
DNS=9.9.9.9
Domains=vm

[Address]
Address=fd00::5/112
DuplicateAddressDetection=none

[Link]
MTUBytes=1400
`,
		"systemd/resolved.conf.d/00-banger.conf": "[Resolve]\nDNS=172.30.0.1\nDNS=9.9.9.9\nDomains=vm\n",
		"NetworkManager/conf.d/00-banger.conf":   "[main]\ndns=none\n\n[keyfile]\nunmanaged-devices=interface-name:eth0\n",
		"network/ifstate":                        "eth0=eth0\n",
		"network/ifstate.eth0":                   "eth0\n",
		"ifstate":                                "eth0=eth0\n",
	}
	got := map[string]string{}
	for path := range want {
		b, err := os.ReadFile(filepath.Join(run, path))
		if err != nil {
			t.Error(err)
		}
		got[path] = string(b)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	bare := Network{Address: testNetwork.Address}
	for _, f := range bare.managerFiles("eth0") {
		for _, key := range []string{"DNS=", "Gateway", "MTU", "Domains", "[Address]"} {
			if strings.Contains(f.content, "\n"+key) {
				t.Errorf("%s: %s without a value: %q", f.path, key, f.content)
			}
		}
	}
}

func TestWriteResolvConf(t *testing.T) {
	const want = "# Written by banger at each start of the VM.\nnameserver 172.30.0.1\nnameserver 9.9.9.9\nsearch vm\n"
	tests := []struct {
		name  string
		start func(path string) error
	}{
		{"Missing", func(string) error { return nil }},
		{"Empty", func(path string) error { return os.WriteFile(path, nil, 0o644) }},
		{"DanglingLink", func(path string) error { return os.Symlink("../run/systemd/resolve/stub-resolv.conf", path) }},
		{"Edited", func(path string) error { return os.WriteFile(path, []byte("nameserver 192.0.2.1\n"), 0o644) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			path := filepath.Join(etc, "resolv.conf")
			if err := tt.start(path); err != nil {
				t.Fatal(err)
			}
			if err := testNetwork.writeResolvConf(etc); err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil || !info.Mode().IsRegular() {
				t.Fatalf("got %v, %v, want a file", info, err)
			}
			if got, err := os.ReadFile(path); string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
	etc := t.TempDir()
	if err := (Network{Address: testNetwork.Address}).writeResolvConf(etc); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(etc, "resolv.conf")); !os.IsNotExist(err) {
		t.Errorf("resolv.conf without name servers: %v", err)
	}
}

func TestOwnHosts(t *testing.T) {
	v4 := Network{Address: netip.MustParsePrefix("172.30.0.5/16")}
	search, both := v4, v4
	search.Search, both.Address6 = "vm", netip.MustParsePrefix("fd62::5/112")
	tests := []struct {
		name     string
		network  Network
		hostname string
		want     []string
	}{
		{"NoNetwork", Network{}, "box", []string{"127.0.1.1\tbox"}},
		{"NoSearch", v4, "box", []string{"172.30.0.5\tbox"}},
		{"Search", search, "box", []string{"172.30.0.5\tbox.vm box"}},
		{"FullName", search, "box.example.org", []string{"172.30.0.5\tbox.example.org box"}},
		{"IPv6", both, "box", []string{"172.30.0.5\tbox", "fd62::5\tbox"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.network.ownHosts(tt.hostname)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
