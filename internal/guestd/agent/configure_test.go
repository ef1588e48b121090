package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/guestd/netcfg"
	"banger/internal/guestd/nstest"
	"banger/internal/guestd/system"
	agentv1 "banger/proto/agent/v1"
)

const (
	testID  = "0123456789abcdef0123456789abcdef"
	otherID = "fedcba9876543210fedcba9876543210"
)

// newConfigured is the agent of a guest with a card called eth0, in the namespace of the test.
func newConfigured(t *testing.T) (server *Server, root string) {
	t.Helper()
	root = t.TempDir()
	if err := errors.Join(os.Mkdir(root+"/etc", 0o755), os.Mkdir(root+"/run", 0o755)); err != nil {
		t.Fatal(err)
	}
	server = New(Config{Record: system.Record{Init: system.InitNone}, Root: root, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { server.Close() })
	server.findCard = func(context.Context) (string, error) { return "eth0", nil }
	return server, root
}

// A guest is told twice who it is now, and each time is that and nothing else.
func TestConfigure(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET|unix.CLONE_NEWUTS) {
		return
	}
	server, root := newConfigured(t)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}); err != nil {
		t.Fatal(err)
	}
	first := netcfg.Config{Address: netip.MustParsePrefix("172.30.0.5/16"), Gateway: netip.MustParseAddr("172.30.0.1")}
	if err := netcfg.Apply(netcfg.Folders{Etc: root + "/etc", Run: root + "/run"}, "eth0", first); err != nil {
		t.Fatal(err)
	}
	requests := []*agentv1.ConfigureRequest{
		{Hostname: "one", MachineId: testID, Network: &agentv1.Network{
			Mac: "02:00:00:00:00:07", Address: "172.30.0.7/16", Gateway: "172.30.0.1", Address6: "fd00::7/112",
			Gateway6:    "fd00::1",
			Nameservers: []string{"172.30.0.1", "9.9.9.9"}, Search: "vm", Mtu: 1400,
		}},
		{Hostname: "two", MachineId: otherID, Network: &agentv1.Network{Address: "10.0.0.9/24"}},
		{Hostname: "three"},
	}
	wants := []struct{ hostname, id, hosts, addresses, mtu string }{
		{
			"one", testID, "172.30.0.7\tone.vm one\t# banger\nfd00::7\tone.vm one\t# banger\n", "172.30.0.7/16 fd00::7/112",
			"1400",
		},
		{"two", otherID, "10.0.0.9\ttwo\t# banger\n", "10.0.0.9/24", "1400"},
		{"three", otherID, "127.0.1.1\tthree\t# banger\n", "", "1400"},
	}
	for i, want := range wants {
		if _, err := server.Configure(t.Context(), requests[i]); err != nil {
			t.Fatal(err)
		}
		hostname, _ := os.Hostname()
		if hostname != want.hostname || read(t, root+"/etc/hostname") != want.hostname+"\n" {
			t.Errorf("host name %q, file %q, want %q", hostname, read(t, root+"/etc/hostname"), want.hostname)
		}
		if got := read(t, root+"/etc/machine-id"); got != want.id+"\n" {
			t.Errorf("%s: machine-id %q, want %q", want.hostname, got, want.id)
		}
		const local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
		if got := read(t, root+"/etc/hosts"); got != local+want.hosts {
			t.Errorf("%s: hosts %q, want %q", want.hostname, got, local+want.hosts)
		}
		if got := addresses(t); got != want.addresses {
			t.Errorf("%s: addresses %q, want %q", want.hostname, got, want.addresses)
		}
	}
	if card, err := net.InterfaceByName("eth0"); err != nil || card.HardwareAddr.String() != "02:00:00:00:00:07" ||
		card.MTU != 1400 {
		t.Errorf("got the card %+v, %v", card, err)
	}
	if got := read(t, root+"/etc/resolv.conf"); !strings.Contains(got, "nameserver 9.9.9.9\nsearch vm\n") {
		t.Errorf("resolv.conf %q", got)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// addresses are those of eth0 by which others know it.
func addresses(t *testing.T) string {
	t.Helper()
	card, err := net.InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	all, err := card.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, a := range all {
		if p := netip.MustParsePrefix(a.String()); !p.Addr().IsLinkLocalUnicast() {
			texts = append(texts, a.String())
		}
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// What is not in order is refused whole: the guest is as it was.
func TestConfigureRefuses(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET|unix.CLONE_NEWUTS) {
		return
	}
	const address = "172.30.0.5/16"
	tests := []struct {
		name    string
		request *agentv1.ConfigureRequest
		want    string
	}{
		{"NoName", &agentv1.ConfigureRequest{}, "no host name"},
		{"Name", &agentv1.ConfigureRequest{Hostname: "a b"}, `"a b": not a host name`},
		{"NameWithLine", &agentv1.ConfigureRequest{Hostname: "a\n127.0.0.1 bank"}, "not a host name"},
		{"LongName", &agentv1.ConfigureRequest{Hostname: strings.Repeat("a", 65)}, "not a host name"},
		{"MachineID", &agentv1.ConfigureRequest{Hostname: "box", MachineId: strings.Repeat("A", 32)}, "not a machine-id"},
		{"ZeroMachineID", &agentv1.ConfigureRequest{Hostname: "box", MachineId: strings.Repeat("0", 32)}, "not a machine-id"},
		{
			"NoAddress", &agentv1.ConfigureRequest{Hostname: "box", Network: &agentv1.Network{Mtu: 1500}},
			"a network without an address",
		},
		{
			"Address", &agentv1.ConfigureRequest{Hostname: "box", Network: &agentv1.Network{Address: "x"}},
			`address="x": not an IPv4 address`,
		},
		{
			"MAC",
			&agentv1.ConfigureRequest{Hostname: "box", Network: &agentv1.Network{Address: address, Mac: "ff:ff:ff:ff:ff:ff"}},
			"not the MAC of a card",
		},
		{
			"Gateway",
			&agentv1.ConfigureRequest{Hostname: "box", Network: &agentv1.Network{Address: address, Gateway: "10.0.0.1"}},
			"not another host of",
		},
		{
			"Nameserver",
			&agentv1.ConfigureRequest{
				Hostname: "box",
				Network:  &agentv1.Network{Address: address, Nameservers: []string{"9.9.9.9\n"}},
			},
			"not the IPv4 address of a host",
		},
		{
			"Search",
			&agentv1.ConfigureRequest{Hostname: "box", Network: &agentv1.Network{Address: address, Search: "vm\noptions"}},
			"not a domain",
		},
		{
			"MTU", &agentv1.ConfigureRequest{Hostname: "box", Network: &agentv1.Network{Address: address, Mtu: 1 << 31}},
			"not 68 to 65535",
		},
	}
	server, root := newConfigured(t)
	before, _ := os.Hostname()
	for _, tt := range tests {
		_, err := server.Configure(t.Context(), tt.request)
		if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want invalid_argument: ...%s", tt.name, err, tt.want)
		}
	}
	if after, _ := os.Hostname(); after != before {
		t.Errorf("the host name is %q now", after)
	}
	for _, dir := range []string{"etc", "run"} {
		if entries, err := os.ReadDir(filepath.Join(root, dir)); len(entries) != 0 || err != nil {
			t.Errorf("%s has %v, %v", dir, entries, err)
		}
	}
}

// What the guest can not do is said with what it was.
func TestConfigureErrors(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWNET|unix.CLONE_NEWUTS) {
		return
	}
	server, root := newConfigured(t)
	request := &agentv1.ConfigureRequest{Hostname: "box", Network: &agentv1.Network{Address: "172.30.0.5/16"}}
	check := func(when, want string) {
		t.Helper()
		if _, err := server.Configure(t.Context(), request); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", when, err, want)
		}
	}
	check("without a card of that name", "configure network: find eth0")
	server.findCard = func(context.Context) (string, error) { return "", errors.New("no virtio-net card") }
	check("without a card", "configure network: no virtio-net card")
	if err := os.MkdirAll(root+"/run/banger/network.json", 0o755); err != nil {
		t.Fatal(err)
	}
	check("with a broken record", "configure network: read ")
	if err := errors.Join(os.RemoveAll(root+"/run/banger"), os.Mkdir(root+"/etc/hosts", 0o755)); err != nil {
		t.Fatal(err)
	}
	request.Network = nil
	check("with a folder for a file", "configure identity: write hosts: ")
	server.configuring <- struct{}{} // another call that is at work
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := server.Configure(ctx, request); !errors.Is(err, context.Canceled) {
		t.Errorf("while another is at work: %v", err)
	}
}

// A manager is only asked where it has run, and an answer that is an error is told.
func TestReloadManagers(t *testing.T) {
	const networkd, resolved = "systemd/netif", "systemd/resolve"
	tests := []struct {
		name   string
		ran    []string
		script string // of systemctl
		asked  string
		want   string
	}{
		{"NoneRan", nil, "exit 1", "", ""},
		{"Networkd", []string{networkd}, "exit 0", "systemd-networkd.service", ""},
		{"Resolved", []string{resolved}, "exit 0", "systemd-resolved.service", ""},
		{"Both", []string{networkd, resolved}, "exit 0", "systemd-networkd.service systemd-resolved.service", ""},
		{
			"ErrRefused",
			[]string{networkd},
			"echo no such unit >&2; exit 5", "systemd-networkd.service",
			"reload network managers: exit status 5: no such unit\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run, bin := t.TempDir(), t.TempDir()
			script := "#!/bin/sh\necho \"$@\" > " + bin + "/asked\n" + tt.script + "\n"
			if err := os.WriteFile(bin+"/systemctl", []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, folder := range tt.ran {
				if err := os.MkdirAll(filepath.Join(run, folder), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			var got string
			if err := reloadManagers(t.Context(), run); err != nil {
				got = err.Error()
			}
			b, _ := os.ReadFile(bin + "/asked")
			asked := strings.TrimPrefix(strings.TrimSpace(string(b)), "try-reload-or-restart ")
			if got != tt.want || asked != tt.asked {
				t.Errorf("got %q after asking %q, want %q after %q", got, asked, tt.want, tt.asked)
			}
		})
	}
}
