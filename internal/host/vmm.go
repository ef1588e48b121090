package host

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger/api"
	"banger/internal/atomicfile"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/firecracker"
	"banger/internal/hostinfo"
)

// trialTimeout bounds the boot that proves a firecracker; with KVM a boot takes well under a second.
const trialTimeout = 10 * time.Second

// VMM is the program that runs VMs here, and why it was chosen.
type VMM struct {
	Binary string `json:"binary"`
	Why    string `json:"why"`
}

// verdict is what the trial boot of a firecracker found. It holds for one run of the host's kernel and one binary.
type verdict struct {
	BootID string `json:"boot_id"`
	Binary string `json:"binary"`
	Stamp  string `json:"stamp"` // of the binary
	Works  bool   `json:"works"`
	Why    string `json:"why"`
}

// PickVMM returns the configured VMM, or firecracker when it is on the path and a trial boot of the kernel on this host
// works, or else firecracker-qemu, which works everywhere. The trial's verdict is kept until the host boots again.
func PickVMM(ctx context.Context, c config.Config, tools Tools, vmlinux string) (VMM, error) {
	if c.VMM != "auto" {
		binary, err := hostinfo.LookPath(c.VMM)
		if err != nil && c.VMM == "firecracker-qemu" {
			binary, err = tools.QEMU, nil
		}
		if err != nil {
			return VMM{}, api.Errorf(api.CodeUnavailable, "find configured VMM: %w", err).WithHint("change the setting vmm, see: banger config show")
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
func tryVMM(ctx context.Context, file, binary, vmlinux string) (verdict, error) {
	bootID, err := BootID()
	if err != nil {
		return verdict{}, err
	}
	stamp, err := disk.Stamp(filepath.Split(binary))
	if err != nil {
		return verdict{}, err
	}
	var kept verdict
	if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &kept) == nil &&
		kept.BootID == bootID && kept.Binary == binary && kept.Stamp == stamp {
		return kept, nil
	}
	trialCtx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	v := verdict{BootID: bootID, Binary: binary, Stamp: stamp, Works: true, Why: "a trial boot worked"}
	if err := firecracker.TrialBoot(trialCtx, binary, vmlinux); err != nil {
		if ctx.Err() != nil {
			return verdict{}, ctx.Err() // cancelled from outside proves nothing
		}
		v.Works, v.Why = false, err.Error()
	}
	data, err := json.Marshal(v)
	if err != nil {
		return v, err
	}
	if err := atomicfile.Write(file, data, 0o600, atomicfile.Volatile); err != nil {
		return v, fmt.Errorf("keep verdict on %s: %w", binary, err)
	}
	return v, nil
}
