package network

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	taken := map[netip.Addr]bool{}
	small := netip.MustParsePrefix("10.1.2.0/28")
	for want := 2; want <= 12; want++ {
		got, err := NextAddress(small, taken)
		if err != nil || got.As4() != [4]byte{10, 1, 2, byte(want)} {
			t.Fatalf("got %s, %v, want 10.1.2.%d", got, err, want)
		}
		taken[got] = true
	}
	if got, err := NextAddress(small, taken); err == nil {
		t.Errorf("a full subnet gave %s", got)
	}
	if got, want := HostEnd(small).String()+" "+UplinkEnd(small).String(), "10.1.2.14 10.1.2.13"; got != want {
		t.Errorf("ends: got %s, want %s", got, want)
	}
	if got, want := MAC(netip.MustParseAddr("172.30.255.9")), "02:00:ac:1e:ff:09"; got != want {
		t.Errorf("MAC: got %s, want %s", got, want)
	}
}

func TestAddresses6(t *testing.T) {
	for _, row := range []struct{ subnet, address, subnet6, address6 string }{
		{"172.30.0.0/16", "172.30.0.2", "fd62:616e:6765::ac1e:0/112", "fd62:616e:6765::ac1e:2"},
		{"10.0.0.0/8", "10.255.1.9", "fd62:616e:6765::a00:0/104", "fd62:616e:6765::aff:109"},
		{"192.168.7.16/28", "192.168.7.17", "fd62:616e:6765::c0a8:710/124", "fd62:616e:6765::c0a8:711"},
	} {
		subnet, address := netip.MustParsePrefix(row.subnet), netip.MustParseAddr(row.address)
		if got := Subnet6(subnet); got.String() != row.subnet6 || got != got.Masked() {
			t.Errorf("%s goes with %s, want %s", subnet, got, row.subnet6)
		}
		if got := Address6(address); got.String() != row.address6 || !Subnet6(subnet).Contains(got) {
			t.Errorf("%s goes with %s, want %s", address, got, row.address6)
		}
	}
	mac, _ := net.ParseMAC(MAC(netip.MustParseAddr("172.30.0.2")))
	if got := LinkLocal(mac).String(); got != "fe80::acff:fe1e:2" {
		t.Errorf("link-local address: got %s", got)
	}
}

func TestCheckSubnet(t *testing.T) {
	for text, ok := range map[string]bool{
		"172.30.0.0/16": true, "10.0.0.0/8": true, "10.0.0.0/28": true,
		"10.0.0.1/16": false, "10.0.0.0/29": false, "10.0.0.0/7": false, "fd00::/64": false,
	} {
		if err := CheckSubnet(netip.MustParsePrefix(text)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	if CheckSubnet(netip.Prefix{}) == nil {
		t.Error("no subnet is accepted")
	}
}

func TestCheckPort(t *testing.T) {
	good := Endpoint{ID: "x", Name: "web-1", MAC: "02:00:ac:1e:00:02", Address: netip.MustParseAddr("172.30.0.2")}
	rows := []struct {
		name string
		edit func(*Endpoint)
		want string
	}{
		{"OK", func(*Endpoint) {}, ""},
		{"ErrID", func(p *Endpoint) { p.ID = "" }, "endpoint id"},
		{"ErrLongID", func(p *Endpoint) { p.ID = strings.Repeat("x", 129) }, "endpoint id"},
		{"ErrName", func(p *Endpoint) { p.Name = "a.b" }, "endpoint name"},
		{"ErrUpperName", func(p *Endpoint) { p.Name = "Web" }, "endpoint name"},
		{"ErrMAC", func(p *Endpoint) { p.MAC = "02-00-ac-1e-00-02" }, "endpoint MAC"},
		{"ErrMulticast", func(p *Endpoint) { p.MAC = "03:00:ac:1e:00:02" }, "endpoint MAC"},
		{"ErrGatewayMAC", func(p *Endpoint) { p.MAC = "02:00:ac:1e:00:01" }, "gateway"},
		{"ErrNoAddress", func(p *Endpoint) { p.Address = netip.Addr{} }, "endpoint address"},
		{"ErrGateway", func(p *Endpoint) { p.Address = netip.MustParseAddr("172.30.0.1") }, "endpoint address"},
		{"ErrReserved", func(p *Endpoint) { p.Address = netip.MustParseAddr("172.30.255.253") }, "endpoint address"},
		{"ErrOutside", func(p *Endpoint) { p.Address = netip.MustParseAddr("172.31.0.2") }, "endpoint address"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := good
			row.edit(&p)
			err := p.Check(DefaultSubnet)
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}
