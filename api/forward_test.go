package api

import (
	"net/netip"
	"testing"
)

func TestParseForward(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	for _, row := range []struct {
		text string
		want Forward // the zero value: refused
	}{
		{"8080:80", Forward{TCP, loopback, 8080, 80, ""}},
		{"8080", Forward{TCP, loopback, 8080, 8080, ""}},
		{"0:22", Forward{TCP, loopback, 0, 22, ""}},
		{"5353:53/udp", Forward{UDP, loopback, 5353, 53, ""}},
		{"80:80/tcp", Forward{TCP, loopback, 80, 80, ""}},
		{"0.0.0.0:8080:80", Forward{TCP, netip.IPv4Unspecified(), 8080, 80, ""}},
		{"[::1]:8080:80", Forward{TCP, netip.IPv6Loopback(), 8080, 80, ""}},
		{"[::]:53:53/udp", Forward{UDP, netip.IPv6Unspecified(), 53, 53, ""}},
		{"", Forward{}},
		{":", Forward{}},
		{"80:", Forward{}},
		{":80", Forward{}},
		{"80:0", Forward{}},
		{"0", Forward{}},
		{"65536:80", Forward{}},
		{"80:80/icmp", Forward{}},
		{"80:80/", Forward{}},
		{"::1:80:80", Forward{}},
		{"[127.0.0.1]:80:80", Forward{}},
		{"[fe80::1%eth0]:80:80", Forward{}},
		{"localhost:80:80", Forward{}},
		{"1:2:3:4", Forward{}},
		{"-1:80", Forward{}},
		{"+1:80", Forward{}},
	} {
		got, err := ParseForward(row.text)
		if got != row.want || (err != nil) != (row.want == Forward{}) {
			t.Errorf("ParseForward(%q) = %+v, %v; want %+v", row.text, got, err, row.want)
		}
	}
}

// FuzzParseForward: what is understood is written in a way that is understood as the same.
func FuzzParseForward(f *testing.F) {
	for _, seed := range []string{"8080:80", "[::1]:1:2/udp", "0.0.0.0:0:1", "x", "[::ffff:1.2.3.4]:1:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseForward(text)
		if err != nil {
			return
		}
		if again, err := ParseForward(got.String()); err != nil || again != got {
			t.Errorf("%q is %+v, whose %q is %+v, %v", text, got, got.String(), again, err)
		}
	})
}

// What a client leaves out is given in one place, whichever way the forward comes.
func TestForwardDefaults(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	for _, row := range []struct{ given, want Forward }{
		{Forward{}, Forward{Protocol: TCP, Host: loopback}},
		{Forward{GuestPort: 80, Error: "x"}, Forward{TCP, loopback, 0, 80, "x"}},
		{Forward{UDP, netip.IPv6Loopback(), 1, 2, ""}, Forward{UDP, netip.IPv6Loopback(), 1, 2, ""}},
		{Forward{Protocol: "icmp"}, Forward{Protocol: "icmp", Host: loopback}},
	} {
		if got := row.given.WithDefaults(); got != row.want {
			t.Errorf("%+v.WithDefaults() = %+v, want %+v", row.given, got, row.want)
		}
	}
}
