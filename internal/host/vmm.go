package host

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/firecracker"
	"banger/internal/hostinfo"
	"banger/internal/verdict"
)

// trialTimeout bounds the boot that proves a firecracker; with KVM a boot takes well under a
// second.
const trialTimeout = 10 * time.Second

// VMM is the program that runs VMs here, and why it was chosen.
type VMM struct {
	Binary string `json:"binary"`
	Why    string `json:"why"`
}

// trial is what the trial boot of a firecracker found.
type trial struct {
	Works bool   `json:"works"`
	Why   string `json:"why"`
}

// PickVMM returns the configured VMM, or firecracker when it is on the path and a trial boot of the
// kernel on this host works, or else firecracker-qemu, which works everywhere. The trial's verdict
// is kept until the host boots again.
func PickVMM(ctx context.Context, c config.Config, tools Tools, vmlinux string) (VMM, error) {
	if c.VMM != "auto" {
		binary, err := hostinfo.LookPath(c.VMM)
		if err != nil && c.VMM == "firecracker-qemu" {
			binary, err = tools.QEMU, nil
		}
		if err != nil {
			return VMM{}, api.Errorf(api.CodeUnavailable, "find configured VMM: %w", err).
				WithRemedy(api.OpStatus.Remedy(api.None{}, "change the setting vmm"))
		}
		return VMM{binary, "configured"}, nil
	}
	binary, err := hostinfo.LookPath("firecracker")
	if err != nil {
		return VMM{tools.QEMU, "there is no firecracker on the path"}, nil
	}
	v, err := tryVMM(ctx, c.Home.VMMVerdict(), binary, vmlinux)
	if err != nil {
		return VMM{}, err
	}
	if !v.Works {
		return VMM{tools.QEMU, fmt.Sprintf("%s does not work here: %s", binary, v.Why)}, nil
	}
	return VMM{binary, v.Why}, nil
}

// tryVMM returns the kept verdict on a binary, or makes a trial boot and keeps its verdict.
func tryVMM(ctx context.Context, path, binary, vmlinux string) (trial, error) {
	stamp, err := disk.Stamp(filepath.Split(binary))
	if err != nil {
		return trial{}, err
	}
	file := verdict.File[trial]{Path: path, Key: binary + " " + stamp}
	if kept, ok := file.Load(); ok {
		return kept, nil
	}
	trialCtx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	v := trial{Works: true, Why: "a trial boot worked"}
	if err := firecracker.TrialBoot(trialCtx, binary, vmlinux); err != nil {
		if ctx.Err() != nil {
			return trial{}, ctx.Err() // cancelled from outside proves nothing
		}
		v.Works, v.Why = false, err.Error()
	}
	return v, file.Store(v)
}
