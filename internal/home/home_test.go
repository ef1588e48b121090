package home

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

// A home outlives the program: what has a name keeps it.
func TestNames(t *testing.T) {
	const d Dir = "/h"
	got := []string{
		d.Socket(), d.Lock(), d.Log(), d.Database(), d.VMMVerdict(), d.VMs(), d.VM("0123456789ab"), d.Images(), d.Kernels(),
		d.Layers(), d.Downloads(), d.Builds(), d.Network(), d.SSH(),
	}
	want := []string{
		"/h/daemon.sock", "/h/daemon.lock", "/h/daemon.log", "/h/state.db", "/h/firecracker-verdict.json", "/h/vms",
		"/h/vms/0123456789ab", "/h/images", "/h/kernels", "/h/cache/layers/sha256", "/h/cache/downloads", "/h/builds", "/h/net", "/h/ssh",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// The limit is the kernel's, to the byte: the longest path that is let through can be bound.
func TestCheckSocketPath(t *testing.T) {
	dir, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	longest := filepath.Join(dir, strings.Repeat("x", MaxSocketPathBytes-len(dir)-1))
	listener, err := net.Listen("unix", longest)
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	if err := CheckSocketPath(longest); err != nil {
		t.Errorf("the longest path: %v", err)
	}
	if listener, err := net.Listen("unix", longest+"x"); err == nil {
		_ = listener.Close()
		t.Error("the kernel takes a longer path")
	}
	if err := CheckSocketPath(longest + "x"); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "108 bytes, the kernel allows 107") {
		t.Errorf("a longer path: %v", err)
	}
}

func TestCheck(t *testing.T) {
	short := Dir("/" + strings.Repeat("x", MaxSocketPathBytes-len("/daemon.sock")-1))
	for d, refused := range map[Dir]bool{short: false, short + "x": true} {
		if err := d.Check(); (err != nil) != refused {
			t.Errorf("a folder of %d bytes: %v, want refused %v", len(d), err, refused)
		}
	}
}
