package identity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/guestd/netcfg"
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
	if err := errors.Join(os.WriteFile(outside, []byte("safe"), 0o644), os.Symlink(outside, filepath.Join(etc, "hostname")),
		os.WriteFile(filepath.Join(etc, "machine-id"), []byte("uninitialized\n"), 0o444)); err != nil {
		t.Fatal(err)
	}
	if err := writeFiles(etc, Spec{Hostname: "box"}, netcfg.Config{}); err != nil {
		t.Fatal(err)
	}
	id := read("machine-id")
	if len(id) != 33 || id[12] != '4' || read("hostname") != "box\n" || !strings.Contains(read("hosts"), "127.0.1.1\tbox\t# banger\n") {
		t.Errorf("machine-id %q, hostname %q, hosts %q", id, read("hostname"), read("hosts"))
	}
	if b, _ := os.ReadFile(outside); string(b) != "safe" {
		t.Errorf("wrote through a symlink: %q", b)
	}
	if err := writeMachineID(etc, ""); err != nil || read("machine-id") != id {
		t.Errorf("machine-id changed from %q to %q, %v", id, read("machine-id"), err)
	}
}
