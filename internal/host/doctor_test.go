package host

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/config"
	"banger/internal/home"
)

func contextThatEnds(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 200*time.Millisecond)
}

func TestCheckQEMU(t *testing.T) {
	tests := []struct {
		name, program string
		want          api.Check
	}{
		{
			"OK", `echo '{"accel":"tcg","why":"no KVM","qemu_version":"10.0.2"}'; test "$*" = "--probe-accel /vmlinux"`,
			api.Check{Name: "qemu", Status: api.CheckOK, Detail: "version 10.0.2, runs machines with tcg: no KVM"},
		},
		{"SaysWhy", "echo 'QEMU 7.2 is too old' >&2; exit 1", api.Check{Name: "qemu", Status: api.CheckFailed, Detail: "QEMU 7.2 is too old"}},
		{"SaysNothing", "exit 1", api.Check{Name: "qemu", Status: api.CheckFailed, Detail: "exit status 1"}},
		{"NoJSON", "echo hello", api.Check{Name: "qemu", Status: api.CheckFailed, Detail: "invalid character 'h' looking for beginning of value"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tools := Tools{QEMU: script(t, t.TempDir(), "firecracker-qemu", tt.program)}
			got := checkQEMU(t.Context(), tools, "/vmlinux", "install")
			if (got.Repair != "") != (tt.want.Status == api.CheckFailed) {
				t.Errorf("Repair = %q", got.Repair)
			}
			got.Repair = ""
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("check (-want +got):\n%s", diff)
			}
		})
	}
}

// A probe that hangs, and whose child holds its output, does not hang the doctor.
func TestCheckQEMUThatHangs(t *testing.T) {
	tools := Tools{QEMU: script(t, t.TempDir(), "firecracker-qemu", "sleep 8; exit 1")}
	ctx, cancel := contextThatEnds(t)
	defer cancel()
	began := time.Now()
	if got := checkQEMU(ctx, tools, "", "install"); got.Status != api.CheckFailed {
		t.Errorf("check = %+v", got)
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("the check took %s", took)
	}
}

func TestCheckVMM(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	tools := Tools{QEMU: "/q"}
	tests := []struct {
		name, vmm, vmlinux string
		want               api.Check
	}{
		{"NoKernel", "auto", "", api.Check{Name: "vmm", Status: api.CheckOK, Detail: "not tried yet: there is no kernel to boot", Remedy: new(api.OpPullKernel.Remedy(api.PullKernel{}, "fetch one"))}},
		{"Own", "auto", "/vmlinux", api.Check{Name: "vmm", Status: api.CheckOK, Detail: "/q: there is no firecracker on the path"}},
		{"Missing", "none", "/vmlinux", api.Check{
			Name: "vmm", Status: api.CheckFailed, Remedy: new(api.OpStatus.Remedy(api.None{}, "change the setting vmm")),
			Detail: `find configured VMM: exec: "none": executable file not found in $PATH`,
		}},
	}
	for _, tt := range tests {
		got := checkVMM(t.Context(), config.Config{Home: home.Dir(t.TempDir()), VMM: tt.vmm}, tools, tt.vmlinux)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestCheckProgram(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	want := api.Check{Name: "no-such-mkfs", Status: api.CheckFailed, Detail: "not found; it makes disks", Repair: "sudo dnf install e2fsprogs"}
	if diff := cmp.Diff(want, checkProgram("no-such-mkfs", "e2fsprogs", "makes disks", "sudo dnf install")); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	want = api.Check{Name: "no-such-mkfs", Status: api.CheckOK, Detail: script(t, dir, "no-such-mkfs", "")}
	if diff := cmp.Diff(want, checkProgram("no-such-mkfs", "e2fsprogs", "makes disks", "")); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
}

func TestCheckPaths(t *testing.T) {
	tail := len("/vms/0123456789ab/vsock.sock")
	for n, want := range map[int]api.CheckStatus{107: api.CheckOK, 108: api.CheckFailed} {
		got := checkSocketPath(home.Dir("/" + strings.Repeat("x", n-tail-1)))
		if got.Status != want || (got.Repair != "") != (want == api.CheckFailed) {
			t.Errorf("a path of %d bytes: %+v", n, got)
		}
	}
	if got := checkDisk(t.TempDir()); got.Status == api.CheckFailed || !strings.Contains(got.Detail, "GiB free") {
		t.Errorf("checkDisk = %+v", got)
	}
	if got := checkDisk(filepath.Join(t.TempDir(), "none")); got.Status != api.CheckFailed {
		t.Errorf("checkDisk of no folder = %+v", got)
	}
}

// What the doctor finds wrong it says how to repair.
func TestDoctor(t *testing.T) {
	checks := Doctor(t.Context(), config.Config{Home: home.Dir(t.TempDir()), VMM: "auto"}, Tools{QEMU: "/none"}, "")
	var names []string
	for _, c := range checks {
		names = append(names, c.Name)
		if c.Detail == "" || c.Status != api.CheckOK && c.Repair == "" {
			t.Errorf("check %+v", c)
		}
	}
	want := []string{"kvm", "qemu", "vmm", "mmdebstrap", "mkfs.ext4", "depmod", "nsenter", "pasta", "tun", "user namespaces", "disk space", "socket paths"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}
