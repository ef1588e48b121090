package identity

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/guestd/netcfg"
)

func TestHostsFor(t *testing.T) {
	const own = "172.30.0.5\tbox.vm box\t# banger\nfd62::5\tbox.vm box\t# banger\n"
	lines := ownHosts("box", netcfg.Config{
		Address: netip.MustParsePrefix("172.30.0.5/16"), Address6: netip.MustParsePrefix("fd62::5/112"), Search: "vm",
	})
	tests := []struct{ name, old, want string }{
		{"New", "", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + own},
		{"Added", "127.0.0.1 localhost\n10.0.0.1 other", "127.0.0.1 localhost\n10.0.0.1 other\n" + own},
		{"Replaced", "127.0.1.1 old old.lan\n# end\n", own + "# end\n"},
		{"OtherAddress", "::1 localhost\n172.30.0.9\told.vm old\t# banger\n# end\n", "::1 localhost\n" + own + "# end\n"},
		{"OtherUser", "172.30.0.9 old.vm old\n", "172.30.0.9 old.vm old\n" + own},
		{"Kept", own, own},
		{"OneBefore", "172.30.0.5\tbox.vm box\t# banger\n::1 localhost\n", own + "::1 localhost\n"},
		{"Once", "127.0.1.1 a\n127.0.1.1 b\n172.30.0.9\told.vm old\t# banger\n", own},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(hostsFor([]byte(tt.old), lines)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestOwnHosts(t *testing.T) {
	v4 := netcfg.Config{Address: netip.MustParsePrefix("172.30.0.5/16")}
	search, both := v4, v4
	search.Search, both.Address6 = "vm", netip.MustParsePrefix("fd62::5/112")
	tests := []struct {
		name     string
		network  netcfg.Config
		hostname string
		want     []string
	}{
		{"NoNetwork", netcfg.Config{}, "box", []string{"127.0.1.1\tbox"}},
		{"NoSearch", v4, "box", []string{"172.30.0.5\tbox"}},
		{"Search", search, "box", []string{"172.30.0.5\tbox.vm box"}},
		{"FullName", search, "box.example.org", []string{"172.30.0.5\tbox.example.org box"}},
		{"IPv6", both, "box", []string{"172.30.0.5\tbox", "fd62::5\tbox"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ownHosts(tt.hostname, tt.network)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
