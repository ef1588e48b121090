package identity

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
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

// Whatever a user's file holds, his lines stay in their order, ours are there once, and a second
// time changes nothing.
func FuzzHostsFor(f *testing.F) {
	f.Add("127.0.0.1 localhost\n127.0.1.1 old\n# end")
	f.Add("172.30.0.9\told\t# banger\r\n\n\x00\n127.0.1.1")
	own := []string{"172.30.0.5\tbox.vm box", "fd62::5\tbox.vm box"}
	f.Fuzz(func(t *testing.T, old string) {
		once := hostsFor([]byte(old), own)
		if twice := hostsFor(once, own); !bytes.Equal(once, twice) {
			t.Errorf("%q became %q, and then %q", old, once, twice)
		}
		ours := func(line string) bool {
			fields := strings.Fields(line)
			return strings.HasSuffix(line, hostsMark) || len(fields) > 0 && fields[0] == "127.0.1.1"
		}
		users := func(file string) []string {
			lines := slices.Collect(strings.SplitSeq(strings.TrimSuffix(file, "\n"), "\n"))
			return slices.DeleteFunc(lines, ours)
		}
		if old != "" && !slices.Equal(users(old), users(string(once))) {
			t.Errorf("%q became %q: lines of the user's changed", old, once)
		}
		for _, line := range own {
			if n := strings.Count(string(once), line+"\t"+hostsMark+"\n"); n != 1 {
				t.Errorf("%q became %q: our line is there %d times", old, once, n)
			}
		}
	})
}
