package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/config"
	"banger/internal/home"
	"banger/internal/hostinfo"
)

// lowDiskBytes is free space below which an image can no longer be built.
const lowDiskBytes = 4 << 30

// Doctor looks at what banger needs and returns what it found, each with the command that repairs
// it. vmlinux is a kernel for trial boots, or empty when none is there yet.
func Doctor(ctx context.Context, c config.Config, tools Tools, vmlinux string) []api.Check {
	install := hostinfo.InstallCommand()
	return []api.Check{
		checkKVM(),
		checkQEMU(ctx, tools, vmlinux, install),
		checkVMM(ctx, c, tools, vmlinux),
		checkProgram("mmdebstrap", "mmdebstrap", "builds images", install),
		checkProgram("mkfs.ext4", "e2fsprogs", "makes disks", install),
		checkProgram("depmod", "kmod", "indexes kernel modules", install),
		checkProgram("nsenter", "util-linux", "starts machines in the network's namespace", install),
		checkPasta(install),
		checkTun(),
		checkUserNamespaces(),
		checkDisk(string(c.Home)),
		checkSocketPath(c.Home),
	}
}

func checkKVM() api.Check {
	check := api.Check{Name: "kvm", Status: api.CheckOK, Detail: "/dev/kvm opens"}
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	switch {
	case err == nil:
		file.Close()
	case errors.Is(err, os.ErrNotExist):
		check.Status, check.Detail = api.CheckWarning, "no /dev/kvm: machines are emulated, which is slow"
		check.Repair = "switch virtualization on in the firmware, or nested virtualization if this is a VM; then: sudo modprobe kvm_intel || sudo modprobe kvm_amd"
	default:
		check.Status, check.Detail = api.CheckWarning, fmt.Sprintf("%v: machines are emulated, which is slow", err)
		check.Repair = "sudo usermod -aG kvm $USER   # then log in again"
	}
	return check
}

// accel is what `firecracker-qemu --probe-accel` prints.
type accel struct {
	Accel       string `json:"accel"` // kvm or tcg; empty when there was no kernel to try
	Why         string `json:"why"`
	QEMUVersion string `json:"qemu_version"`
}

func checkQEMU(ctx context.Context, tools Tools, vmlinux, install string) api.Check {
	check := api.Check{Name: "qemu", Repair: install + " qemu-system-x86"}
	if repair, ok := backports(); ok {
		check.Repair = repair
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, tools.QEMU, "--probe-accel", vmlinux)
	command.WaitDelay = time.Second // a child of a program that was killed may hold its output open
	out, err := command.Output()
	var found accel
	if err == nil {
		err = json.Unmarshal(out, &found)
	}
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
			err = errors.New(strings.TrimSpace(string(exit.Stderr)))
		}
		check.Status, check.Detail = api.CheckFailed, err.Error()
		return check
	}
	check.Status, check.Repair = api.CheckOK, ""
	check.Detail = fmt.Sprintf("version %s; KVM %s", found.QEMUVersion, found.Why)
	if found.Accel != "" {
		check.Detail = fmt.Sprintf("version %s, runs machines with %s: %s", found.QEMUVersion, found.Accel, found.Why)
	}
	return check
}

func checkVMM(ctx context.Context, c config.Config, tools Tools, vmlinux string) api.Check {
	check := api.Check{Name: "vmm", Status: api.CheckOK}
	if vmlinux == "" {
		check.Detail = "not tried yet: there is no kernel to boot"
		remedy := api.OpPullKernel.Remedy(api.PullKernel{Source: c.Kernel}, "fetch one")
		check.Remedy = &remedy
		return check
	}
	vmm, err := PickVMM(ctx, c, tools, vmlinux)
	if err != nil {
		check.Status, check.Detail = api.CheckFailed, err.Error()
		remedy := api.OpStatus.Remedy(api.None{}, "change the setting vmm")
		check.Remedy = &remedy
		return check
	}
	check.Detail = vmm.Binary + ": " + vmm.Why
	return check
}

func checkProgram(name, pkg, purpose, install string) api.Check {
	path, err := hostinfo.LookPath(name)
	if err != nil {
		return api.Check{Name: name, Status: api.CheckFailed, Detail: "not found; it " + purpose, Repair: install + " " + pkg}
	}
	return api.Check{Name: name, Status: api.CheckOK, Detail: path}
}

// checkPasta looks for the uplink of a network without root; root has another.
func checkPasta(install string) api.Check {
	check := api.Check{Name: "pasta", Status: api.CheckOK, Detail: "not needed by root"}
	if os.Geteuid() == 0 {
		return check
	}
	path, err := hostinfo.LookPath("pasta")
	if err != nil {
		check.Status, check.Detail, check.Repair = api.CheckFailed, "not found; it connects machines to the world", install+" passt"
		return check
	}
	check.Detail = path
	return check
}

// checkTun looks at the device that taps are made of.
func checkTun() api.Check {
	check := api.Check{Name: "tun", Status: api.CheckOK, Detail: "/dev/net/tun opens"}
	file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		check.Status, check.Detail = api.CheckFailed, err.Error()
		check.Repair = "sudo modprobe tun; sudo chmod 0666 /dev/net/tun   # or make machines without a network: --net none"
		return check
	}
	file.Close()
	return check
}

// checkUserNamespaces looks at what mmdebstrap needs to build an image without root: a range of
// subordinate ids, the helpers that map them, and a kernel that lets users make namespaces.
func checkUserNamespaces() api.Check {
	check := api.Check{Name: "user namespaces", Status: api.CheckOK, Detail: "not needed by root"}
	if os.Geteuid() == 0 {
		return check
	}
	if err := cmp.Or(hostinfo.CheckIDMaps(), hostinfo.CheckNamespaces()); err != nil {
		return failed(check.Name, err)
	}
	check.Detail = "allowed, with subordinate ids"
	return check
}

// failed is a check that found this error; what it hints at is the repair.
func failed(name string, err error) api.Check {
	check := api.Check{Name: name, Status: api.CheckFailed, Detail: err.Error()}
	if e, ok := errors.AsType[*api.Error](err); ok {
		check.Repair = e.Hint
	}
	return check
}

func checkDisk(home string) api.Check {
	check := api.Check{Name: "disk space", Status: api.CheckOK}
	var fs unix.Statfs_t
	if err := unix.Statfs(home, &fs); err != nil {
		check.Status, check.Detail = api.CheckFailed, fmt.Sprintf("look at %s: %v", home, err)
		return check
	}
	free := int64(fs.Bavail) * fs.Bsize
	check.Detail = fmt.Sprintf("%.1f GiB free in %s", float64(free)/(1<<30), home)
	if free < lowDiskBytes {
		check.Status, check.Repair = api.CheckWarning, "free some space, or set BANGER_HOME to a folder on a larger disk"
	}
	return check
}

// checkSocketPath looks whether a VM's sockets fit into what the kernel allows for a path.
func checkSocketPath(d home.Dir) api.Check {
	path := d.LongestSocket()
	check := api.Check{Name: "socket paths", Status: api.CheckOK, Detail: fmt.Sprintf("%d of %d bytes", len(path), home.MaxSocketPathBytes)}
	if home.CheckSocketPath(path) != nil {
		check.Status, check.Repair = api.CheckFailed, "set BANGER_HOME to a shorter path"
	}
	return check
}

// backports returns the command that installs a QEMU that works on Debian 12, whose own is too old.
func backports() (string, bool) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil || !strings.Contains(string(release), "VERSION_CODENAME=bookworm") {
		return "", false
	}
	return "echo deb http://deb.debian.org/debian bookworm-backports main | sudo tee /etc/apt/sources.list.d/bookworm-backports.list && " +
		"sudo apt-get update && sudo apt-get install -t bookworm-backports qemu-system-x86", true
}
