package netcfg

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	mac1 = net.HardwareAddr{2, 0, 0, 0, 0, 1} // fe80::ff:fe00:1
	mac2 = net.HardwareAddr{2, 0, 0, 0, 0, 2} // fe80::ff:fe00:2
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// parse reads a Config of "key=value" words.
func parse(t *testing.T, line string) Config {
	t.Helper()
	c, err := Parse(keys(line))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPlan(t *testing.T) {
	const (
		one = "mac=02:00:00:00:00:01 address=172.30.0.5/16 gateway=172.30.0.1 address6=fd00::5/112 gateway6=fd00::1"
		two = "mac=02:00:00:00:00:02 address=10.0.0.9/24 gateway=10.0.0.1 address6=fd01::9/112 gateway6=fd01::1"
	)
	hasOne := state{
		mac: mac1, ipv6: true, addresses: prefixes("172.30.0.5/16", "fd00::5/112", "fe80::ff:fe00:1/64"),
		gateways: addrs("172.30.0.1", "fd00::1"),
	}
	with := func(s state, change func(*state)) state { change(&s); return s }
	tests := []struct {
		name    string
		now     state
		earlier []string
		want    string
		changes []string
	}{
		{
			"Boot",
			state{mac: mac1, ipv6: true, addresses: prefixes("fe80::ff:fe00:1/64")},
			nil, one,
			[]string{"give address 172.30.0.5/16", "give address fd00::5/112", "route by 172.30.0.1", "route by fd00::1"},
		},
		{"BootWithoutIPv6", state{mac: mac1}, nil, one, []string{"give address 172.30.0.5/16", "route by 172.30.0.1"}},
		{"Again", hasOne, []string{one}, one, nil},
		{
			"Fork", with(hasOne, func(s *state) { s.mac = mac2 }),
			[]string{one},
			two,
			[]string{
				"remove address fd00::5/112", "remove address fe80::ff:fe00:1/64",
				"give address 10.0.0.9/24", "give address fe80::ff:fe00:2/64", "give address fd01::9/112",
				"stop to route by 172.30.0.1", "stop to route by fd00::1", "route by 10.0.0.1", "route by fd01::1",
				"remove address 172.30.0.5/16",
			},
		},
		{
			"SameSubnet", hasOne,
			[]string{one},
			"address=172.30.0.6/16 gateway=172.30.0.1 address6=fd00::6/112 gateway6=fd00::1",
			[]string{
				"remove address fd00::5/112", "give address 172.30.0.6/16", "give address fd00::6/112",
				"remove address 172.30.0.5/16",
			},
		},
		{
			"OtherPrefix", hasOne,
			[]string{one},
			"address=172.30.0.5/24 gateway=172.30.0.1 address6=fd00::5/64 gateway6=fd00::1",
			[]string{
				"remove address fd00::5/112", "give address 172.30.0.5/24", "give address fd00::5/64",
				"remove address 172.30.0.5/16",
			},
		},
		{
			"Less", hasOne,
			[]string{one},
			"address=172.30.0.5/16",
			[]string{"remove address fd00::5/112", "stop to route by 172.30.0.1", "stop to route by fd00::1"},
		},
		{
			"Nothing", hasOne,
			[]string{one},
			"",
			[]string{
				"remove address fd00::5/112", "stop to route by 172.30.0.1", "stop to route by fd00::1",
				"remove address 172.30.0.5/16",
			},
		},
		{
			"OthersStay",
			with(hasOne, func(s *state) {
				s.addresses = append(prefixes("172.30.0.77/16", "fd00::77/112", "fe80::77/64"), s.addresses...)
			}),
			[]string{one},
			"address=172.30.0.5/16 gateway=172.30.0.1",
			[]string{"remove address fd00::5/112", "stop to route by fd00::1"},
		},
		{
			"OwnDefaultRouteStays", with(hasOne, func(s *state) { s.gateways = addrs("172.30.0.200", "fd00::200") }),
			[]string{one},
			two + " mac=02:00:00:00:00:01",
			[]string{
				"remove address fd00::5/112", "give address 10.0.0.9/24", "give address fd01::9/112",
				"remove address 172.30.0.5/16",
			},
		},
		{
			"TunnelStays",
			state{mac: mac1, ipv6: true, foreign4: true},
			nil, one,
			[]string{"give address 172.30.0.5/16", "give address fd00::5/112", "route by fd00::1"},
		},
		{
			"TunnelStays6",
			state{mac: mac1, ipv6: true, foreign6: true},
			nil, one,
			[]string{"give address 172.30.0.5/16", "give address fd00::5/112", "route by 172.30.0.1"},
		},
		{
			"AfterAFailure",
			state{
				mac: mac2, ipv6: true, addresses: prefixes("172.30.0.5/16", "10.0.0.9/24"),
				gateways: addrs("10.0.0.1", "fd00::1"),
			},
			[]string{one, two},
			two,
			[]string{
				"give address fe80::ff:fe00:2/64", "give address fd01::9/112", "stop to route by fd00::1", "route by fd01::1",
				"remove address 172.30.0.5/16",
			},
		},
		{
			"AfterAFailureToAThird",
			with(hasOne, func(s *state) { s.addresses = append(prefixes("10.0.0.9/24"), s.addresses...) }),
			[]string{one, two},
			one,
			[]string{"remove address 10.0.0.9/24"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var earlier []Config
			for _, line := range tt.earlier {
				earlier = append(earlier, parse(t, line))
			}
			var got []string
			for _, c := range plan(tt.now, earlier, parse(t, tt.want)) {
				got = append(got, c.String())
			}
			if diff := cmp.Diff(tt.changes, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The kernel's own: RFC 4291, appendix A, with the MAC of its example turned to banger's kind.
func TestLinkLocal(t *testing.T) {
	for mac, want := range map[string]string{
		"02:00:ac:1e:00:02": "fe80::acff:fe1e:2/64",
		"34:56:78:9a:bc:de": "fe80::3656:78ff:fe9a:bcde/64",
	} {
		parsed, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		if got := linkLocal(parsed).String(); got != want {
			t.Errorf("%s: got %s, want %s", mac, got, want)
		}
	}
}
