package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/guest"
	"banger/internal/store"
)

// buildHome is a home whose image is a filesystem, and a build on it that does nothing.
func buildHome(t *testing.T, how string) (*home, Build) {
	t.Helper()
	h := newHome(t, how)
	rootfs := filepath.Join(h.dir, "images", h.image, "rootfs.ext4")
	if err := os.Remove(rootfs); err != nil {
		t.Fatal(err)
	}
	if err := disk.CreateExt4(t.Context(), rootfs, disk.MinExt4Bytes, "of-another"); err != nil {
		t.Fatal(err)
	}
	// What is checked at the start of the VM is the image's file; the fake image is replaced with
	// all that knows it.
	h.adoptImage(rootfs)
	return h, Build{
		ImageName: "web", From: store.Image{ID: h.image, Name: "debian:trixie", SizeBytes: disk.MinExt4Bytes}, SizeMiB: 64, Network: api.NetworkNone,
		MakeInputs: func(_ context.Context, path string) error { return os.WriteFile(path, []byte("inputs"), 0o600) },
		Work:       func(context.Context, *guest.Client) error { return nil },
		Take:       func(_ context.Context, path string) error { return os.Remove(path) },
	}
}

// nothingLeft fails the test when there is a VM, or a folder of one.
func (h *home) nothingLeft(m *Manager) {
	h.t.Helper()
	if vms, err := m.VMs(h.t.Context()); err != nil || len(vms) != 0 {
		h.t.Errorf("left: %v, %v", vms, err)
	}
	if entries, _ := os.ReadDir(filepath.Join(h.dir, "vms")); len(entries) != 0 {
		h.t.Errorf("left folders: %v", entries)
	}
}

func TestBuild(t *testing.T) {
	h, b := buildHome(t, fakeWell)
	m := h.manager()
	b.Work = func(ctx context.Context, _ *guest.Client) error {
		v, err := m.VM(ctx, "build-web")
		if err != nil || v.State != api.StateRunning || v.BuildsImage != "web" || !v.Isolated {
			t.Errorf("the machine is %+v, %v", v, err)
		}
		dir := Dir(v.Dir)
		if label, err := disk.Label(dir.Disk()); label != disk.LabelImage || err != nil {
			t.Errorf("the root has the label %q, %v", label, err)
		}
		if usage, err := disk.UsageOf(dir.Disk()); usage.ApparentBytes != 64<<20 || err != nil {
			t.Errorf("the root has %d bytes, %v", usage.ApparentBytes, err)
		}
		calls, err := os.ReadFile(filepath.Join(v.Dir, "calls.log"))
		if err != nil || !strings.Contains(string(calls), "banger.root=own") || !strings.Contains(string(calls), dir.Inputs()) || strings.Contains(string(calls), h.image) {
			t.Errorf("the VMM was told, %v:\n%s", err, calls)
		}
		return nil
	}
	taken := ""
	b.Take = func(_ context.Context, path string) error {
		taken = filepath.Join(h.dir, "taken")
		return os.Rename(path, taken)
	}
	if err := m.Build(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft(m)
	usage, err := disk.UsageOf(taken)
	if err != nil || usage.ApparentBytes > disk.MinExt4Bytes {
		t.Errorf("the new root has %d bytes, %v", usage.ApparentBytes, err)
	}
	if info, err := os.Stat(taken); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("its mode: %v, %v", info.Mode(), err)
	}
}

// Whatever fails, nothing is left.
func TestBuildFails(t *testing.T) {
	broken := errors.New("it broke")
	tests := []struct {
		name   string
		how    string
		change func(*Build, *Manager, context.CancelCauseFunc)
		want   string
	}{
		{"Inputs", fakeWell, func(b *Build, _ *Manager, _ context.CancelCauseFunc) {
			b.MakeInputs = func(context.Context, string) error { return broken }
		}, "gather inputs: it broke"},
		{"VMM", fakeRefuses, nil, "the kernel is no ELF file"},
		{"Work", fakeWell, func(b *Build, _ *Manager, _ context.CancelCauseFunc) {
			b.Work = func(context.Context, *guest.Client) error { return broken }
		}, "it broke"},
		{"Shutdown", fakeStubborn, func(_ *Build, m *Manager, _ context.CancelCauseFunc) { m.config.StopTimeout = 50_000_000 }, "did not end within 50ms"},
		{"Take", fakeWell, func(b *Build, _ *Manager, _ context.CancelCauseFunc) {
			b.Take = func(context.Context, string) error { return broken }
		}, "it broke"},
		{"Small", fakeWell, func(b *Build, _ *Manager, _ context.CancelCauseFunc) { b.From.SizeBytes = 65 << 20 }, "image debian:trixie alone has 65 MiB"},
		{"Cancelled", fakeWell, func(b *Build, _ *Manager, cancel context.CancelCauseFunc) {
			b.Keep = true // which is for failures
			b.Work = func(ctx context.Context, _ *guest.Client) error {
				cancel(broken)
				<-ctx.Done()
				return context.Cause(ctx)
			}
		}, "it broke"},
		{"Removed", fakeWell, func(b *Build, m *Manager, _ context.CancelCauseFunc) {
			b.Work = func(ctx context.Context, _ *guest.Client) error {
				go m.Remove(context.WithoutCancel(ctx), "build-web", true) // its outcome is this one's
				<-ctx.Done()
				return context.Cause(ctx)
			}
		}, "build was cancelled by remove"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, b := buildHome(t, tt.how)
			m := h.manager()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if tt.change != nil {
				tt.change(&b, m, cancel)
			}
			if err := m.Build(ctx, b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			h.nothingLeft(m)
		})
	}
}

// With Keep a failure leaves the VM running, as one of its own: it says how to enter it, and
// survives a daemon.
func TestBuildKept(t *testing.T) {
	h, b := buildHome(t, fakeWell)
	m := h.manager()
	b.Keep = true
	b.Work = func(context.Context, *guest.Client) error {
		return api.Errorf(api.CodeUnavailable, "step packages: exit status 100")
	}
	err := m.Build(t.Context(), b)
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Code != api.CodeUnavailable || len(e.Remedies) != 2 || e.Remedies[0].Operation != api.OpExec.Name || e.Remedies[1].Operation != api.OpRemoveMachine.Name {
		t.Fatalf("error %#v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	next := h.manager()
	v, err := next.VM(t.Context(), "build-web")
	if err != nil || v.State != api.StateRunning {
		t.Fatalf("after another daemon: %+v, %v", v, err)
	}
	if _, err := next.Restart(t.Context(), v.ID, 0, 0); err != nil { // its root is found again
		t.Error(err)
	}
	if err := next.Build(t.Context(), Build{
		ImageName: "web", From: b.From, SizeMiB: 64, Network: api.NetworkNone, MakeInputs: b.MakeInputs, Work: b.Work, Take: b.Take,
	}); err == nil || !strings.Contains(err.Error(), "exit status 100") {
		t.Errorf("a second build beside it: %v", err)
	}
	if err := next.Remove(t.Context(), v.ID, true); err != nil {
		t.Error(err)
	}
	h.nothingLeft(next)
}

// A daemon that dies leaves a VM that the next one removes.
func TestBuildOfDeadDaemon(t *testing.T) {
	h := newHome(t, fakeWell)
	for _, state := range []api.State{api.StateCreating, api.StateStarting, api.StateRunning, api.StateStopping, api.StateStopped} {
		v := h.insert(store.VM{State: state, Builds: "web", Leased: true})
		h.write(Dir(filepath.Join(h.dir, "vms", v.ID)).Disk(), "disk")
	}
	h.nothingLeft(h.manager())
}
