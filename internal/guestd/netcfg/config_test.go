package netcfg

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equateAddresses = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

var testNetwork = Config{
	Address:     netip.MustParsePrefix("172.30.0.5/16"),
	Gateway:     netip.MustParseAddr("172.30.0.1"),
	Address6:    netip.MustParsePrefix("fd00::5/112"),
	Gateway6:    netip.MustParseAddr("fd00::1"),
	Nameservers: []netip.Addr{netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("9.9.9.9")},
	Search:      "vm",
	MTU:         1400,
}

// keys reads "key=value" words, of which the last one of a key counts.
func keys(line string) map[string]string {
	given := map[string]string{}
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		given[key] = value
	}
	return given
}

func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Fatalf("got error %v, want %q", err, want)
	}
}

func TestParse(t *testing.T) {
	const address = "address=172.30.0.5/16 "
	only := Config{Address: testNetwork.Address}
	tests := []struct {
		name, line string
		want       Config
		wantErr    string
	}{
		{"None", "quiet", Config{}, ""},
		{
			"All",
			address + "gateway=172.30.0.1 address6=fd00::5/112 gateway6=fd00::1 dns=172.30.0.1,9.9.9.9 mtu=1400 search=vm",
			testNetwork, "",
		},
		{"AddressOnly", address, only, ""},
		{"LastCounts", "address=x " + address, only, ""},
		{"SmallestSubnet", "address=10.0.0.1/30", Config{Address: netip.MustParsePrefix("10.0.0.1/30")}, ""},
		{"ErrNoAddress", "gateway=172.30.0.1", Config{}, "gateway: given without an address"},
		{"ErrEmpty", "address=", Config{}, `address="": not an IPv4 address with a prefix length`},
		{"ErrNoPrefix", "address=172.30.0.5", Config{}, "not an IPv4 address with a prefix length"},
		{"ErrZeros", "address=172.030.0.5/16", Config{}, "not an IPv4 address with a prefix length"},
		{"ErrIPv6", "address=fd00::5/64", Config{}, "not an IPv4 address with a prefix length"},
		{"ErrLargeSubnet", "address=10.0.0.5/7", Config{}, "prefix length not 8 to 30"},
		{"ErrSmallSubnet", "address=10.0.0.5/31", Config{}, "prefix length not 8 to 30"},
		{"ErrSubnetItself", "address=172.30.0.0/16", Config{}, "not the address of a host"},
		{"ErrBroadcast", "address=172.30.255.255/16", Config{}, "not the address of a host"},
		{"ErrLoopback", "address=127.0.0.5/8", Config{}, "not the address of a host"},
		{"ErrMulticast", "address=224.0.0.5/8", Config{}, "not the address of a host"},
		{"ErrGateway", address + "gateway=gw", Config{}, `gateway="gw": not the IPv4 address of a host`},
		{"ErrGatewayOutside", address + "gateway=172.31.0.1", Config{}, "not another host of 172.30.0.0/16"},
		{"ErrGatewayItself", address + "gateway=172.30.0.5", Config{}, "not another host of 172.30.0.0/16"},
		{
			"WithoutGateway6", address + "address6=fd00::5/64",
			Config{Address: only.Address, Address6: netip.MustParsePrefix("fd00::5/64")},
			"",
		},
		{"ErrOnly6", "address6=fd00::5/64", Config{}, "address6: given without an address"},
		{"ErrEmpty6", address + "address6=", Config{}, `address6="": not the IPv6 address of a host with a prefix length`},
		{"ErrNoPrefix6", address + "address6=fd00::5", Config{}, "not the IPv6 address of a host"},
		{"ErrIPv4", address + "address6=172.30.0.5/16", Config{}, "not the IPv6 address of a host"},
		{"ErrMapped", address + "address6=::ffff:172.30.0.5/112", Config{}, "not the IPv6 address of a host"},
		{"ErrZone", address + "address6=fd00::5%eth0/112", Config{}, "not the IPv6 address of a host"},
		{"ErrLinkLocal", address + "address6=fe80::5/64", Config{}, "not the IPv6 address of a host"},
		{"ErrLoopback6", address + "address6=::1/64", Config{}, "not the IPv6 address of a host"},
		{"ErrMulticast6", address + "address6=ff02::5/64", Config{}, "not the IPv6 address of a host"},
		{"ErrLargeSubnet6", address + "address6=fd00::5/63", Config{}, "prefix length not 64 to 126"},
		{"ErrSmallSubnet6", address + "address6=fd00::5/127", Config{}, "prefix length not 64 to 126"},
		{"ErrSubnetItself6", address + "address6=fd00::/64", Config{}, "not the address of a host"},
		{
			"ErrGateway6", address + "address6=fd00::5/112 gateway6=172.30.0.1",
			Config{},
			`gateway6="172.30.0.1": not the IPv6 address of a host`,
		},
		{"ErrGateway6Alone", address + "gateway6=fd00::1", Config{}, "gateway6=fd00::1: given without an address"},
		{
			"ErrGateway6Outside", address + "address6=fd00::5/112 gateway6=fd00::1:1",
			Config{},
			"not another host of fd00::/112",
		},
		{"ErrGateway6Itself", address + "address6=fd00::5/112 gateway6=fd00::5", Config{}, "not another host of fd00::/112"},
		{"ErrDNSEmpty", address + "dns=", Config{}, "not the IPv4 address of a host"},
		{"ErrDNSTrailingComma", address + "dns=9.9.9.9,", Config{}, "not the IPv4 address of a host"},
		{"ErrDNSZone", address + "dns=fe80::1%eth0", Config{}, "not the IPv4 address of a host"},
		{"ErrDNSMany", address + "dns=9.9.9.1,9.9.9.2,9.9.9.3,9.9.9.4", Config{}, "more than 3 name servers"},
		{"ErrMTUSign", address + "mtu=+1500", Config{}, "not 68 to 65535"},
		{"ErrMTUSmall", address + "mtu=67", Config{}, "not 68 to 65535"},
		{"ErrMTULarge", address + "mtu=65536", Config{}, "not 68 to 65535"},
		{
			"MAC", address + "mac=02:00:AC:1e:00:05",
			Config{Address: only.Address, MAC: net.HardwareAddr{2, 0, 0xac, 0x1e, 0, 5}},
			"",
		},
		{"ErrMACEmpty", address + "mac=", Config{}, `mac="": not the MAC of a card`},
		{"ErrMACShort", address + "mac=02:00:ac:1e:00", Config{}, "not the MAC of a card"},
		{"ErrMACLong", address + "mac=02:00:ac:1e:00:05:00:01", Config{}, "not the MAC of a card"},
		{"ErrMACGroup", address + "mac=03:00:ac:1e:00:05", Config{}, "not the MAC of a card"},
		{"ErrMACZero", address + "mac=00:00:00:00:00:00", Config{}, "not the MAC of a card"},
		{"ErrMACAlone", "mac=02:00:ac:1e:00:05", Config{}, "mac: given without an address"},
		{"ErrSearch", address + "search=v_m", Config{}, `search="v_m": not a domain`},
		{"ErrSearchLong", address + "search=" + strings.Repeat("a.", 127) + "a", Config{}, "not a domain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(keys(tt.line))
			checkErr(t, err, tt.wantErr)
			if diff := cmp.Diff(tt.want, got, equateAddresses); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("address=172.30.0.5/16 gateway=172.30.0.1 dns=172.30.0.1,1.1.1.1 mtu=1500 search=vm mac=02:00:00:00:00:01")
	f.Add("address=172.30.0.5/16 address6=fd62:616e:6765::ac1e:5/112 gateway6=fd62:616e:6765::ac1e:1")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := Parse(keys(line))
		if err != nil {
			return
		}
		if c.Gateway.IsValid() && !c.Address.Contains(c.Gateway) || c.Gateway6.IsValid() &&
			!c.Address6.Contains(c.Gateway6) ||
			len(c.Nameservers) > maxNameservers || c.MTU < 0 || c.MTU > maxMTU || len(c.MAC) != 0 && len(c.MAC) != macBytes {
			t.Errorf("took %+v", c)
		}
		// What is written into configuration files must not bring lines of its own.
		if got, want := bytes.Count(c.resolvConf(), []byte("\n")), 1+len(c.Nameservers)+min(len(c.Search), 1); got != want {
			t.Errorf("resolv.conf has %d lines, want %d: %q", got, want, c.resolvConf())
		}
		for _, line := range c.networkd("eth0") {
			if strings.Contains(line, "\n") {
				t.Errorf("networkd is told %q in one line", line)
			}
		}
	})
}
