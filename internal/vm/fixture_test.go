package vm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/disk"
	homefolder "banger/internal/home"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/network"
	"banger/internal/oci"
	"banger/internal/store"
)

// home is a folder with a database, an image and a kernel that are whole, but of nonsense.
type home struct {
	t             *testing.T
	dir           string
	image, kernel string
	store         *store.Store
	options       Options
	fault         func(flow, step string, when moment) error // of the managers made from here on; may be nil
}

// newHome makes a home whose VMM is the fake, behaving like how.
func newHome(t *testing.T, how string) *home {
	t.Helper()
	t.Setenv(fakeVariable, how)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // the fake ends at once also when it is built with -race
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "bvm") // short: socket paths have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db, err := store.Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &home{t: t, dir: dir, store: db}
	h.makeImage()
	h.makeKernel()
	if err := os.Mkdir(filepath.Join(dir, pidsFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	h.write(filepath.Join(dir, "banger-guest"), "init")
	h.options = testOptions(dir, db, self)
	return h
}

// testOptions are those of a daemon of the home; self is this test's binary, which is also the VMM.
func testOptions(dir string, db *store.Store, self string) Options {
	return Options{
		Store:   db,
		Images:  &image.Catalog{Root: filepath.Join(dir, "images"), Store: db, Layers: &oci.Cache{Dir: filepath.Join(dir, "layers")}},
		Kernels: &kernel.Catalog{Root: filepath.Join(dir, "kernels"), Store: db},
		Config: config.Config{
			Home: homefolder.Dir(dir), Image: "debian:trixie", Kernel: "debian:trixie", CPUs: 1, MemoryMiB: 128, DiskMiB: 64,
			Network: api.NetworkNone, Subnet: network.DefaultSubnet,
			BootTimeout: 20 * time.Second, StopTimeout: 10 * time.Second,
		},
		// of VMs without a network it is never asked
		Network:     network.NewClient(homefolder.Dir(dir), true, []string{self, keepFlag, dir}),
		PickVMM:     func(context.Context, string) (string, error) { return self, nil },
		GuestBinary: filepath.Join(dir, "banger-guest"),
		Log:         slog.New(slog.DiscardHandler),
	}
}

func (h *home) write(path, text string) {
	h.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *home) makeImage() {
	h.t.Helper()
	work := filepath.Join(h.dir, "work")
	h.write(filepath.Join(work, "rootfs.ext4"), "root filesystem")
	file, err := disk.Describe(h.t.Context(), work, "rootfs.ext4")
	if err != nil {
		h.t.Fatal(err)
	}
	h.image = file.SHA256
	m := image.Manifest{Version: 1, ID: file.SHA256, Name: "debian:trixie", SizeBytes: file.SizeBytes}
	h.publish(work, "images", file.SHA256, m)
	if err := h.store.PutArtifact(h.t.Context(), store.KindImage, store.Artifact{ID: m.ID, Name: m.Name, CreatedAt: time.Now()}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *home) makeKernel() {
	h.t.Helper()
	work := filepath.Join(h.dir, "work")
	m := kernel.Manifest{Version: 1, Name: "debian:trixie", Release: "6.12"}
	for _, name := range []string{"vmlinux", "initrd.cpio", "modules.ext4"} {
		h.write(filepath.Join(work, name), name)
		file, err := disk.Describe(h.t.Context(), work, name)
		if err != nil {
			h.t.Fatal(err)
		}
		m.Files = append(m.Files, file)
	}
	h.kernel = m.ID()
	h.publish(work, "kernels", m.ID(), m)
	if err := h.store.PutArtifact(h.t.Context(), store.KindKernel, store.Artifact{ID: m.ID(), Name: m.Name, CreatedAt: time.Now()}); err != nil {
		h.t.Fatal(err)
	}
}

// publish gives a work folder its manifest and its place.
func (h *home) publish(work, kind, id string, manifest any) {
	h.t.Helper()
	err := errors.Join(
		disk.WriteManifest(filepath.Join(work, "manifest.json"), manifest),
		os.MkdirAll(filepath.Join(h.dir, kind), 0o700),
		os.Rename(work, filepath.Join(h.dir, kind, id)),
	)
	if err != nil {
		h.t.Fatal(err)
	}
}

// manager is a daemon's life: it recovers, and closes with the test unless it was closed before.
func (h *home) manager() *Manager {
	h.t.Helper()
	m := New(h.options)
	m.fault = h.fault
	if err := m.Recover(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			h.t.Error(err)
		}
	})
	return m
}

// create makes a VM that is removed, with its VMM, at the end of the test.
func (h *home) create(m *Manager, want api.CreateMachine) api.Machine {
	h.t.Helper()
	v, err := m.Create(h.t.Context(), want)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		last := m
		if m.retired() { // the one and only manager of a home otherwise
			last = New(h.options)
			defer last.Close()
		}
		if err := last.Remove(context.Background(), v.ID, true); err != nil && api.CodeOf(err) != api.CodeNotFound {
			h.t.Error(err)
		}
	})
	return v
}

func (h *home) start(m *Manager, id string) api.Machine {
	h.t.Helper()
	v, err := m.Start(h.t.Context(), id, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

// insert records a VM that another daemon left in that state.
func (h *home) insert(v store.VM) store.VM {
	h.t.Helper()
	v.ImageID, v.KernelID, v.CPUs, v.MemoryMiB, v.DiskMiB = h.image, h.kernel, 1, 128, 64
	if v.ID == "" {
		v.ID = newID()
	}
	if v.Name == "" {
		v.Name = "vm-" + v.ID
	}
	if err := h.store.InsertVM(h.t.Context(), &v, nil); err != nil {
		h.t.Fatal(err)
	}
	return v
}

// await returns when the condition of a VM holds; it looks again at each change of the manager's
// VMs.
func (h *home) await(m *Manager, id string, condition api.WaitFor) api.Machine {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	v, err := m.Wait(ctx, id, condition)
	if err != nil {
		h.t.Fatalf("wait until %s: %v", condition, err)
	}
	return v
}

// awaitUnlocked returns when nobody holds a VM's lock, as its VMM does until it has ended.
func (h *home) awaitUnlocked(d Dir) {
	h.t.Helper()
	patience := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := tryLock(d.Lock())
		if err != nil {
			h.t.Fatal(err)
		}
		if lock != nil {
			lock.Close()
			return
		}
		select {
		case <-tick.C:
		case <-patience:
			h.t.Fatalf("%s is held still", d.Lock())
		}
	}
}

// left returns the names of what lies in a VM's folder, without logs and lock.
func left(d Dir) []string {
	entries, _ := os.ReadDir(string(d))
	var names []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".log") && e.Name() != "lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

// adoptImage makes the file, which lies in the image's folder, the image's content.
func (h *home) adoptImage(rootfs string) {
	h.t.Helper()
	file, err := disk.Describe(h.t.Context(), filepath.Dir(rootfs), "rootfs.ext4")
	if err != nil {
		h.t.Fatal(err)
	}
	work := filepath.Join(h.dir, "work")
	if err := errors.Join(h.store.DeleteArtifact(h.t.Context(), store.KindImage, h.image), os.MkdirAll(work, 0o700), os.Rename(rootfs, filepath.Join(work, "rootfs.ext4"))); err != nil {
		h.t.Fatal(err)
	}
	h.image = file.SHA256
	m := image.Manifest{Version: 1, ID: file.SHA256, Name: "debian:trixie", SizeBytes: file.SizeBytes}
	h.publish(work, "images", file.SHA256, m)
	if err := h.store.PutArtifact(h.t.Context(), store.KindImage, store.Artifact{ID: m.ID, Name: m.Name, CreatedAt: time.Now()}); err != nil {
		h.t.Fatal(err)
	}
}
