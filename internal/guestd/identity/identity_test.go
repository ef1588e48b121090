package identity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/netcfg"
	"banger/internal/guestd/nstest"
)

func TestWriteIdentity(t *testing.T) {
	etc := t.TempDir()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(etc, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(os.WriteFile(outside, []byte("safe"), 0o644),
		os.Symlink(outside, filepath.Join(etc, "hostname")),
		os.WriteFile(filepath.Join(etc, "machine-id"), []byte("uninitialized\n"), 0o444)); err != nil {
		t.Fatal(err)
	}
	if err := writeFiles(etc, Spec{Hostname: "box"}, netcfg.Config{}); err != nil {
		t.Fatal(err)
	}
	id := read("machine-id")
	if len(id) != 33 || id[12] != '4' || read("hostname") != "box\n" ||
		!strings.Contains(read("hosts"), "127.0.1.1\tbox\t# banger\n") {
		t.Errorf("machine-id %q, hostname %q, hosts %q", id, read("hostname"), read("hosts"))
	}
	if b, _ := os.ReadFile(outside); string(b) != "safe" {
		t.Errorf("wrote through a symlink: %q", b)
	}
	if err := writeMachineID(etc, ""); err != nil || read("machine-id") != id {
		t.Errorf("machine-id changed from %q to %q, %v", id, read("machine-id"), err)
	}
}

func TestCheck(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	tests := []struct {
		name string
		spec Spec
		want string
	}{
		{"Nothing", Spec{}, ""},
		{"All", Spec{Hostname: "box.example.org", MachineID: id}, ""},
		{"Digits", Spec{Hostname: "7"}, ""},
		{"LongestName", Spec{Hostname: strings.Repeat("a", 63)}, ""},
		{"LongestDomain", Spec{Hostname: strings.Repeat("a", 31) + "." + strings.Repeat("b", 32)}, ""},
		{"ErrLongLabel", Spec{Hostname: strings.Repeat("a", 64)}, "not a host name"},
		{"ErrLongName", Spec{Hostname: strings.Repeat("a.", 32) + "a"}, "not a host name"},
		{"ErrLine", Spec{Hostname: "box\n"}, `"box\n": not a host name`},
		{"ErrUTF8", Spec{Hostname: "bücher"}, "not a host name"},
		{"ErrUnderscore", Spec{Hostname: "a_b"}, "not a host name"},
		{"ErrRoot", Spec{Hostname: "box."}, "not a host name"},
		{"ErrShortID", Spec{MachineID: id[1:]}, "not a machine-id"},
		{"ErrLongID", Spec{MachineID: id + "0"}, "not a machine-id"},
		{"ErrUpperCaseID", Spec{MachineID: strings.ToUpper(id)}, "not a machine-id"},
		{"ErrUUID", Spec{MachineID: "01234567-89ab-cdef-0123-456789abcdef"}, "not a machine-id"},
		{"ErrZeros", Spec{MachineID: strings.Repeat("0", 32)}, "not a machine-id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.spec.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A machine-id is made where none is, kept where one is, and replaced when the machine is told to
// have another.
func TestWriteMachineID(t *testing.T) {
	const told = "0123456789abcdef0123456789abcdef"
	const own = "fedcba9876543210fedcba9876543210\n"
	tests := []struct{ name, old, want, id string }{ // want is a file; empty for one that was made
		{"Made", "", "", ""},
		{"MadeForSystemd", "uninitialized\n", "", ""},
		{"MadeForSpaces", " \n", "", ""},
		{"Kept", own, own, ""},
		{"Told", own, told + "\n", told},
		{"ToldFirst", "", told + "\n", told},
		{"ToldAgain", told + "\n", told + "\n", told},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			path := filepath.Join(etc, "machine-id")
			if err := os.WriteFile(path, []byte(tt.old), 0o444); err != nil {
				t.Fatal(err)
			}
			if err := writeFiles(etc, Spec{MachineID: tt.id}, netcfg.Config{}); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			got := string(b)
			if err != nil || tt.want != "" && got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
			if id := strings.TrimSuffix(got, "\n"); !isMachineID(id) || len(got) != 33 {
				t.Errorf("got %q, which is no machine-id", got)
			}
			if _, err := os.Stat(filepath.Join(etc, "hostname")); err == nil {
				t.Error("a machine without a name was given one")
			}
		})
	}
}

// An /etc/hosts that blocks half the net does not keep its machine from booting.
func TestLargeHosts(t *testing.T) {
	line := "0.0.0.0 advertiser.example.org\n"
	for _, size := range []int{3 << 20, 20 << 20} {
		etc := t.TempDir()
		large := strings.Repeat(line, size/len(line))
		if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte(large), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := writeFiles(etc, Spec{Hostname: "box"}, netcfg.Config{}); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		b, err := os.ReadFile(filepath.Join(etc, "hosts"))
		if err != nil || !strings.HasPrefix(string(b), large) {
			t.Errorf("%d bytes: the file is another, %v", size, err)
		}
	}
}

// Each file that can not be written is named.
func TestWriteFilesErrors(t *testing.T) {
	for name, want := range map[string]string{
		"hostname": "write host name: ", "hosts": "write hosts: ", "machine-id": "write machine-id: ",
	} {
		etc := t.TempDir()
		if err := os.Mkdir(filepath.Join(etc, name), 0o755); err != nil {
			t.Fatal(err)
		}
		err := writeFiles(etc, Spec{Hostname: "box"}, netcfg.Config{})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}

// The kernel has the name as well, and is left alone where none is given.
func TestApply(t *testing.T) {
	if !nstest.In(t, unix.CLONE_NEWUTS) {
		return
	}
	for _, tt := range []struct{ give, want string }{{"one", "one"}, {"", "one"}, {"two.example.org", "two.example.org"}} {
		if err := Apply(t.TempDir(), Spec{Hostname: tt.give}, netcfg.Config{}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Hostname(); got != tt.want || err != nil {
			t.Errorf("given %q, it is %q, %v, want %q", tt.give, got, err, tt.want)
		}
	}
	long := Spec{Hostname: strings.Repeat("a", 65)}
	if err := Apply(t.TempDir(), long, netcfg.Config{}); err == nil || !strings.Contains(err.Error(), "set host name: ") {
		t.Errorf("a name that the kernel does not take: %v", err)
	}
}
