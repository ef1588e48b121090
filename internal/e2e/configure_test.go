package e2e

import (
	"encoding/json"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/guest"
	"banger/internal/guestd/netcfg"
)

// TestConfigure tells a running guest that it is somebody else, as one that was made of another
// one's memory is told, and then that it is itself again. What its user added stays through both,
// also with a network manager at work.
func TestConfigure(t *testing.T) {
	h := newHome(t)
	h.banger("run", "-d", "--name", "ant")
	h.banger("run", "-d", "--name", "bee")
	h.reaches(true, "ant", "ping -c 1 -W 10 bee.vm")
	h.banger("wait", "ant", "--for", "booted")
	h.reaches(true, "ant", "systemctl start systemd-networkd")
	h.reaches(true, "ant", "ip addr add 192.168.7.7/24 dev eth0")
	h.reaches(true, "ant", "ip route add 10.200.0.0/16 via 192.168.7.1 && echo 192.0.2.9 mine >> /etc/hosts")
	var given []netcfg.Config
	out, _ := h.guest("ant", "cat /run/banger/network.json")
	if err := json.Unmarshal([]byte(out), &given); err != nil || len(given) != 1 {
		t.Fatalf("the guest was given %s, %v", out, err)
	}
	agent := guest.New(guest.DialVsock(filepath.Join(h.vm("ant").Dir, "vsock.sock"), guest.Port))
	defer agent.Close()
	before, other := h.identity("ant", given[0]), guest.Identity{
		Hostname: "other", MachineID: strings.Repeat("ab", 16),
		Network: guest.Network{
			MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, Address: netip.MustParsePrefix("192.0.2.50/24"),
			Gateway: netip.MustParseAddr("192.0.2.1"), Address6: netip.MustParsePrefix("2001:db8::50/64"),
			Gateway6:    netip.MustParseAddr("2001:db8::1"),
			Nameservers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, MTU: 1280,
		},
	}
	const users = "192.168.7.7/24\n10.200.0.0/16 via 192.168.7.1 dev eth0 \n192.0.2.9 mine\n"
	for _, tt := range []struct {
		identity guest.Identity
		want     string
	}{
		{other, `other
abababababababababababababababab
02:00:00:00:00:09 1280
192.0.2.50/24
2001:db8::50/64
fe80::ff:fe00:9/64
default via 192.0.2.1 dev eth0 proto static 
default via 2001:db8::1 dev eth0 proto static metric 1024 pref medium
192.0.2.50	other	# banger
2001:db8::50	other	# banger
nameserver 192.0.2.53
`},
		{before, ""},
	} {
		for range 2 { // a second time changes nothing
			if err := agent.Configure(t.Context(), tt.identity); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.who("ant"); tt.want != "" && got != tt.want+users {
			t.Errorf("got\n%s\nwant\n%s", got, tt.want+users)
		}
		h.loseLink("ant", tt.identity.Network)
	}
	h.reaches(true, "ant", "ping -c 1 -W 10 bee.vm")
	h.reaches(true, "bee", "ping -6 -c 1 -W 10 ant.vm")
	if out, _ := h.guest("ant", "hostname -f; ip -br addr show eth0"); !strings.HasPrefix(out, "ant.vm\n") ||
		strings.Contains(out, "192.0.2.") {
		t.Errorf("it is ant again, and says %q", out)
	}
	err := agent.Configure(t.Context(), guest.Identity{Hostname: "no name"})
	if err == nil || !strings.Contains(err.Error(), "not a host name") {
		t.Errorf("a name that is none: %v", err)
	}
}

// loseLink sets the guest's card down and up. The kernel forgets its routes by that, and networkd
// gives them again: those of now, for it does not remember others.
func (h *home) loseLink(vm string, now guest.Network) {
	h.t.Helper()
	h.reaches(true, vm, "ip link set eth0 down && ip link set eth0 up")
	eventually(h.t, "networkd to give the route again", func() bool {
		_, ok := h.guest(vm, "ip route show default | grep -qF "+now.Gateway.String())
		return ok
	})
	out, _ := h.guest(vm, "ip -o -4 addr show dev eth0 | awk '{print $4}' | grep -v ^192.168.7; ip route show default")
	want := now.Address.String() + "\ndefault via " + now.Gateway.String() + " dev eth0 proto static \n"
	if out != want {
		h.t.Errorf("after the link came back it has %q, want %q", out, want)
	}
}

// identity is what the guest is now.
func (h *home) identity(vm string, n netcfg.Config) guest.Identity {
	h.t.Helper()
	id, _ := h.guest(vm, "cat /etc/machine-id")
	return guest.Identity{
		Hostname: vm, MachineID: strings.TrimSpace(id),
		Network: guest.Network{
			MAC: n.MAC, Address: n.Address, Gateway: n.Gateway, Address6: n.Address6, Gateway6: n.Gateway6,
			Nameservers: n.Nameservers, Search: n.Search, MTU: n.MTU,
		},
	}
}

// who is all that Configure concerns, as the guest's own programs tell it, and then what the test
// added.
func (h *home) who(vm string) string {
	h.t.Helper()
	out, ok := h.guest(vm, `hostname; cat /etc/machine-id
		echo $(cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu)
		ip -o addr show dev eth0 | awk '{print $4}' | grep -v ^192.168.7 | LC_ALL=C sort
		ip route show default; ip -6 route show default; grep '# banger' /etc/hosts; grep ^nameserver /etc/resolv.conf
		ip -o addr show dev eth0 | awk '{print $4}' | grep ^192.168.7
		ip route show 10.200.0.0/16; grep mine /etc/hosts`)
	if !ok {
		h.t.Errorf("in %s: %s", vm, out)
	}
	return out
}
