// Package controltest gives tests a Control of a home folder of its own, whose machines are
// vmtest's.
package controltest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/control"
	"banger/internal/home"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/network"
	"banger/internal/oci"
	"banger/internal/store"
	"banger/internal/vm"
	"banger/internal/vmtest"
)

// New returns a Control until the test's end, when no machine may be left. Its image has those
// defaults, and its VMM behaves like how.
func New(t *testing.T, how string, defaults api.ImageDefaults) *control.Control {
	t.Helper()
	t.Setenv(vmtest.Variable, how)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a VMM ends at once also when it is built with -race
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "bct") // short: socket paths have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	dir := home.Dir(folder)
	db, err := store.Open(t.Context(), dir.Database())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := vmtest.Fill(t.Context(), folder, db, defaults); err != nil {
		t.Fatal(err)
	}
	guest := filepath.Join(folder, "banger-guest")
	if err := os.WriteFile(guest, []byte("init"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := control.Options{
		Config: config.Config{
			Home: dir, Image: vmtest.Name, Kernel: vmtest.Name, CPUs: 1, MemoryMiB: 128, DiskMiB: 64,
			Network: api.NetworkNone, Subnet: network.DefaultSubnet,
			BootTimeout: 20 * time.Second, StopTimeout: 10 * time.Second,
		},
		Log: slog.New(slog.DiscardHandler), Store: db,
		Kernels: &kernel.Catalog{Root: dir.Kernels(), Store: db},
		Images:  &image.Catalog{Root: dir.Images(), Store: db, Layers: &oci.Cache{Dir: dir.Layers()}},
	}
	o.VMs = vm.New(vm.Options{
		Store: db, Images: o.Images, Kernels: o.Kernels, Config: o.Config, Log: o.Log, GuestBinary: guest,
		Network: network.NewClient(dir, true, nil), // of machines without a network it is never asked
		PickVMM: func(context.Context, string) (string, error) { return self, nil },
	})
	if err := o.VMs.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clear(t, o.VMs) })
	return control.New(o)
}

// clear removes the machines that a test has left, and closes.
func clear(t *testing.T, vms *vm.Manager) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	left, err := vms.VMs(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, v := range left {
		if err := vms.Remove(ctx, v.ID, true); err != nil && api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("remove %s: %v", v.Name, err)
		}
	}
	if err := vms.Close(); err != nil {
		t.Error(err)
	}
}
