package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/config"
	"banger/internal/home"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script writes a program into a folder and returns its path.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(path+".new", []byte("#!/bin/sh\n"+text+"\n"), 0o700), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPickVMM(t *testing.T) {
	dir, d := t.TempDir(), home.Dir(t.TempDir())
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	tools := Tools{QEMU: "/lib/banger/firecracker-qemu"}
	other := script(t, dir, "other-vmm", "exit 0")
	tests := []struct {
		name, setting string
		want          VMM
		wantErr       string
	}{
		{"NoFirecracker", "auto", VMM{tools.QEMU, "there is no firecracker on the path"}, ""},
		{"ConfiguredName", "other-vmm", VMM{other, "configured"}, ""},
		{"ConfiguredPath", other, VMM{other, "configured"}, ""},
		{"ConfiguredOwn", "firecracker-qemu", VMM{tools.QEMU, "configured"}, ""},
		{"ErrConfigured", "none", VMM{}, "find configured VMM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := PickVMM(t.Context(), config.Config{Home: d, VMM: tt.setting}, tools, "/vmlinux")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("PickVMM (-want +got):\n%s", diff)
			}
			if (tt.wantErr == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), tt.wantErr) || api.CodeOf(err) != api.CodeUnavailable) {
				t.Errorf("PickVMM = %v, want %q", err, tt.wantErr)
			}
		})
	}
}

// A firecracker that does not work is tried once for each run of the host's kernel, and again when
// it is another one.
func TestPickVMMKeepsVerdict(t *testing.T) {
	dir, d := t.TempDir(), home.Dir(t.TempDir())
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	tried := filepath.Join(t.TempDir(), "tried")
	broken := fmt.Sprintf("echo x >> %s; echo no kvm >&2; exit 1", tried)
	binary := script(t, dir, "firecracker", broken)
	c, tools := config.Config{Home: d, VMM: "auto"}, Tools{QEMU: "/lib/banger/firecracker-qemu"}
	pick := func(wantTries int) {
		t.Helper()
		got, err := PickVMM(t.Context(), c, tools, "/vmlinux")
		if err != nil {
			t.Fatal(err)
		}
		if got.Binary != tools.QEMU || !strings.Contains(got.Why, binary+" does not work here") || !strings.Contains(got.Why, "no kvm") {
			t.Errorf("PickVMM = %+v", got)
		}
		data, err := os.ReadFile(tried)
		if tries := strings.Count(string(data), "x"); err != nil || tries != wantTries {
			t.Errorf("%d trials, %v; want %d", tries, err, wantTries)
		}
	}
	pick(1)
	pick(1)
	script(t, dir, "firecracker", broken+" # another build")
	pick(2)
	verdictFile := d.VMMVerdict()
	if err := os.WriteFile(verdictFile, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	pick(3)
	if entries, err := os.ReadDir(string(d)); len(entries) != 1 || err != nil {
		t.Errorf("left in the home folder: %v, %v", entries, err)
	}
}

func TestPickVMMCanceledProvesNothing(t *testing.T) {
	dir, d := t.TempDir(), home.Dir(t.TempDir())
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	script(t, dir, "firecracker", "exit 1")
	ctx, cancel := contextThatEnds(t)
	cancel()
	if _, err := PickVMM(ctx, config.Config{Home: d, VMM: "auto"}, Tools{}, "/vmlinux"); err == nil {
		t.Error("PickVMM gave a verdict though it was cancelled")
	}
	if entries, _ := os.ReadDir(string(d)); len(entries) != 0 {
		t.Errorf("kept: %v", entries)
	}
}

// FindTools looks beside the running program, which here is this test's binary in a folder of its
// own.
func TestFindTools(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(self)
	if _, err := FindTools(); api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "banger is not whole") {
		t.Errorf("FindTools without the others = %v", err)
	}
	want := Tools{Self: self, Guest: filepath.Join(dir, "banger-guest"), QEMU: filepath.Join(dir, "firecracker-qemu")}
	for _, path := range []string{want.Guest, want.QEMU} {
		script(t, dir, filepath.Base(path), "")
		t.Cleanup(func() { os.Remove(path) })
	}
	got, err := FindTools()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("FindTools (-want +got):\n%s", diff)
	}
}
