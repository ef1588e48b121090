package procfs

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// equateAddrPorts lets cmp compare addresses.
var equateAddrPorts = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// line is one of a table of /proc/net.
func line(local, state, inode string) string {
	return "   0: " + local + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000     0        0 " +
		inode + " 1\n"
}

func TestParseAddress(t *testing.T) {
	tests := []struct{ in, want string }{ // empty: refused
		{"0100007F:0016", "127.0.0.1:22"},
		{"00000000:0050", "0.0.0.0:80"},
		{"0000000000000000FFFF00000100007F:FFFF", "[::ffff:127.0.0.1]:65535"},
		{"00000000000000000000000001000000:0001", "[::1]:1"},
		{"B80D01200000000000000000010000FF:0035", "[2001:db8::ff00:1]:53"},
		{"", ""},
		{"0100007F", ""},
		{"0100007F:", ""},
		{"0100007F:10000", ""},
		{"0100007F:-1", ""},
		{"0100007:0016", ""},
		{"0100007F00:0016", ""},
		{"0100007G:0016", ""},
		{"[::1]:22", ""},
	}
	for _, tt := range tests {
		got, err := parseAddress(tt.in)
		if tt.want == "" {
			if err == nil {
				t.Errorf("%q: took %v", tt.in, got)
			}
			continue
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("%q: got %v, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

// Only sockets that wait for peers count, which is another state for each of the two kinds.
func TestParsePorts(t *testing.T) {
	const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	states := line("0100007F:0001", "01", "1") + line("0100007F:0002", "07", "2") + line("0100007F:0003", "0A", "3")
	tests := []struct {
		name, network, table string
		want                 []uint64 // inodes
		wantErr              string
	}{
		{"TCP", "tcp", heading + states, []uint64{3}, ""},
		{"TCP6", "tcp6", heading + states, []uint64{3}, ""},
		{"UDP", "udp", heading + states, []uint64{2}, ""},
		{"Empty", "tcp", "", nil, ""},
		{"HeadingAlone", "tcp", heading, nil, ""},
		{"FirstIsTheHeading", "tcp", line("0100007F:0003", "0A", "3"), nil, ""},
		{"CutShort", "tcp", heading + line("0100007F:0003", "0A", "3")[:60], nil, ""},
		{"EmptyLines", "tcp", heading + "\n\n" + line("0100007F:0003", "0A", "3"), []uint64{3}, ""},
		{"ErrAddress", "tcp", heading + line("nowhere", "0A", "3"), nil, `parse net/tcp: address "nowhere"`},
		{"ErrInode", "udp", heading + line("0100007F:0003", "07", "x"), nil, `parse net/udp: strconv.ParseUint: parsing "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ports, err := parsePorts(tt.network, []byte(tt.table))
			if tt.wantErr != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %s", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []uint64
			for _, p := range ports {
				got = append(got, p.Inode)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A socket belongs to the oldest of those that share it. What is unreadable or has gone has no
// owner, and is listed.
func TestOwners(t *testing.T) {
	proc := layOut(t, map[string]string{
		"net/tcp": "heading\n" + line("0100007F:0002", "0A", "2") + line("0100007F:0001", "0A", "1") +
			line("0100007F:0003", "0A", "3"),
		"net/udp6": "heading\n" + line("00000000000000000000000001000000:0001", "07", "4"),
		"9/stat":   "9 (child) S 7 7", "9/fd/5": "-> socket:[1]",
		"7/stat": "7 (parent) S 1 7", "7/fd/3": "-> socket:[1]", "7/fd/4": "-> socket:[99]", "7/fd/5": "-> /dev/null",
		"8/fd/3": "-> socket:[2]", // ended since: its name is gone
		"6/fd/0": "not a link",
	})
	want := []Port{
		{Network: "tcp", Address: netip.MustParseAddrPort("127.0.0.1:1"), Inode: 1, PID: 7, Process: "parent"},
		{Network: "tcp", Address: netip.MustParseAddrPort("127.0.0.1:2"), Inode: 2, PID: 8},
		{Network: "tcp", Address: netip.MustParseAddrPort("127.0.0.1:3"), Inode: 3},
		{Network: "udp6", Address: netip.MustParseAddrPort("[::1]:1"), Inode: 4},
	}
	got, err := Ports(proc, 10)
	if diff := cmp.Diff(want, got, equateAddrPorts); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// What the kernel can not be asked fails the call; a kernel without IPv6 only has fewer tables.
func TestPortsErrors(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"Folder":  {"net/tcp/x": ""},
		"Address": {"net/udp": "heading\n" + line("x", "07", "1")},
	} {
		if got, err := Ports(layOut(t, files), 10); err == nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if got, err := Ports(layOut(t, map[string]string{"1/stat": ""}), 10); got != nil || err != nil {
		t.Errorf("no tables at all: %v, %v", got, err)
	}
	if _, err := Ports(t.TempDir()+"/none", 10); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no /proc: %v", err)
	}
}

// Whatever stands in a table, an address is one of the kernel's kinds.
func FuzzParseAddress(f *testing.F) {
	f.Add("0100007F:0016")
	f.Add("0000000000000000FFFF00000100007F:FFFF")
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := parseAddress(s); err == nil && !got.Addr().IsValid() {
			t.Errorf("%q: took %v", s, got)
		}
	})
}
