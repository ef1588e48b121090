package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMachine(t *testing.T) {
	// Of /proc/PID/cmdline of a QEMU that firecracker-qemu started, shortened.
	args := strings.Fields("qemu-system-x86_64 -M microvm,accel=tcg,acpi=on,memory-backend=ram -cpu max -smp 2 -m 1024M -nodefaults -S -kernel /proc/self/fd/5")
	got, err := parseMachine(append(args, "-append", "console=ttyS0 quiet"))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Fields("-M microvm,accel=tcg,acpi=on -cpu max -smp 2 -m 1024M"); !slices.Equal(got.model, want) {
		t.Errorf("model is %q, want %q", got.model, want)
	}
	if got.bootArgs != "console=ttyS0 quiet" {
		t.Errorf("boot arguments are %q", got.bootArgs)
	}
}

func TestParseMachineIncomplete(t *testing.T) {
	for name, args := range map[string]string{
		"flag missing":  "-M microvm -cpu max -m 1G -append quiet",
		"value missing": "-M microvm -cpu max -smp 1 -m 1G -append",
		"nothing":       "",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseMachine(strings.Fields(args)); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestStockArgs(t *testing.T) {
	const args = "console=ttyS0 quiet reboot=k panic=-1 i8042.noaux cryptomgr.notests net.ifnames=0 banger.hostname=a tsc_early_khz=2450000 tsc=reliable"
	if got, want := stockArgs(args), "console=ttyS0 quiet reboot=k panic=-1 tsc_early_khz=2450000 tsc=reliable"; got != want {
		t.Errorf("stock arguments are %q, want %q", got, want)
	}
}

func TestBareArgs(t *testing.T) {
	m := machine{model: []string{"-M", "microvm"}}
	m.BootSource.Kernel = "/vmlinux"
	m.Drives = []drive{{"image", "/rootfs.ext4", true}}
	want := strings.Fields(`-M microvm -nodefaults -no-user-config -display none -no-reboot -global virtio-mmio.force-legacy=false
-kernel /vmlinux -initrd /initrd -append quiet -serial file:/console
-drive if=none,id=image,format=raw,file=/rootfs.ext4,readonly=on -device virtio-blk-device,drive=image
-chardev socket,id=port,path=/port -device virtio-serial-device -device virtserialport,chardev=port,name=firecracker.vsock`)
	if diff := cmp.Diff(want, bareArgs(m, "/initrd", "quiet", "/port", "/console")); diff != "" {
		t.Error(diff)
	}
}
