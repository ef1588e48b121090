package netcfg

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestManagerFiles(t *testing.T) {
	run := t.TempDir()
	if err := testNetwork.writeManagerFiles(run, "eth0"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"systemd/network/00-banger.network": `[Match]
Name=eth0

[Network]
KeepConfiguration=yes
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
Address=172.30.0.5/16
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
	for _, bare := range []Config{{}, {Address: testNetwork.Address}} {
		for _, f := range bare.managerFiles("eth0") {
			for _, key := range []string{"DNS=", "Gateway", "MTU", "Domains", "[Address]"} {
				if strings.Contains(f.content, "\n"+key) {
					t.Errorf("%s: %s without a value: %q", f.path, key, f.content)
				}
			}
			if strings.Contains(f.content, "invalid") {
				t.Errorf("%s: an address that is none: %q", f.path, f.content)
			}
		}
	}
}

const testResolvConf = `# Written by banger at each start of the machine.
nameserver 172.30.0.1
nameserver 9.9.9.9
search vm
`

// Whatever an image has there, a boot puts a file of its own in its place.
func TestWriteResolvConf(t *testing.T) {
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
			at := Folders{Etc: t.TempDir(), Run: t.TempDir()}
			path := filepath.Join(at.Etc, "resolv.conf")
			if err := tt.start(path); err != nil {
				t.Fatal(err)
			}
			if err := testNetwork.writeResolvConf(at); err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil || !info.Mode().IsRegular() {
				t.Fatalf("got %v, %v, want a file", info, err)
			}
			if got, err := os.ReadFile(path); string(got) != testResolvConf {
				t.Errorf("got %q, %v, want %q", got, err, testResolvConf)
			}
		})
	}
	at := Folders{Etc: t.TempDir(), Run: t.TempDir()}
	if err := (Config{Address: testNetwork.Address}).writeResolvConf(at); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(at.Etc, "resolv.conf")); !os.IsNotExist(err) {
		t.Errorf("resolv.conf without name servers: %v", err)
	}
}

// Later in the same boot only what banger wrote is replaced.
func TestRewriteResolvConf(t *testing.T) {
	const fresh = "# Written by banger at each start of the machine.\nnameserver 10.0.0.1\n"
	next := Config{Address: netip.MustParsePrefix("10.0.0.9/24"), Nameservers: addrs("10.0.0.1")}
	const link = "-> "
	tests := []struct{ name, meanwhile, want string }{
		{"Ours", testResolvConf, fresh},
		{"DoneAlready", fresh, fresh},
		{"Edited", testResolvConf + "options edns0\n", testResolvConf + "options edns0\n"},
		{"Shortened", "nameserver 172.30.0.1\n", "nameserver 172.30.0.1\n"},
		{"Emptied", "", ""},
		{"Link", link + "elsewhere", link + "elsewhere"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at := Folders{Etc: t.TempDir(), Run: t.TempDir()}
			if err := testNetwork.writeResolvConf(at); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(at.Etc, "resolv.conf")
			err := os.Remove(path)
			if target, ok := strings.CutPrefix(tt.meanwhile, link); ok {
				err = errors.Join(err, os.Symlink(target, path))
			} else {
				err = errors.Join(err, os.WriteFile(path, []byte(tt.meanwhile), 0o644))
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := next.writeResolvConf(at); err != nil {
					t.Fatal(err)
				}
			}
			b, _ := os.ReadFile(path)
			got := string(b)
			if target, err := os.Readlink(path); err == nil {
				got = link + target
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWriteResolvConfErrors(t *testing.T) {
	tests := []struct{ name, folder, want string }{
		{"ErrFolder", "etc/resolv.conf", "write resolv.conf: "},
		{"ErrCopy", "run/banger/resolv.conf", "read resolv.conf of this boot: "},
		{"ErrLater", "run/banger/resolv.conf.banger", "resolv.conf.banger: is a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := t.TempDir()
			if err := errors.Join(os.MkdirAll(filepath.Join(base, "etc"), 0o755),
				os.MkdirAll(filepath.Join(base, tt.folder), 0o755)); err != nil {
				t.Fatal(err)
			}
			checkErr(t, testNetwork.writeResolvConf(Folders{Etc: base + "/etc", Run: base + "/run"}), tt.want)
		})
	}
}
