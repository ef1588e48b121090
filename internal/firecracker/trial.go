package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// trialConsoleBytes a second are what the kernel may say. The limit is there because VMs have one,
// which a Firecracker older than 1.16 refuses: it must not pass the trial.
const trialConsoleBytes = 1 << 20

// trialMemoryMiB is enough for a kernel that looks for its root filesystem in vain.
const trialMemoryMiB = 256

// TrialBoot boots a kernel without an initrd or drives until it panics for want of a root
// filesystem and resets. That proves that a VMM works on this host: that its program starts or that
// /dev/kvm opens proves nothing. It needs a deadline in ctx, for a guest that never runs.
func TrialBoot(ctx context.Context, binary, vmlinux string) (err error) {
	dir, err := os.MkdirTemp("", "banger-trial-")
	if err != nil {
		return fmt.Errorf("make trial folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	console, socket := filepath.Join(dir, "console"), filepath.Join(dir, "api.sock")
	process, err := Start(ctx, Command{Binary: binary, ID: "trial", APISocket: socket, LogFile: filepath.Join(dir, "log")})
	if err != nil {
		return err
	}
	defer process.Release()
	defer func() {
		err = errors.Join(err, process.Kill())
		<-process.Done()
	}()
	client := NewClient(socket)
	err = errors.Join(
		client.PutMachineConfig(ctx, MachineConfig{VCPUCount: 1, MemSizeMiB: trialMemoryMiB}),
		client.PutBootSource(ctx, BootSource{KernelImagePath: vmlinux, BootArgs: "console=ttyS0 reboot=k panic=-1"}),
		client.PutSerial(ctx, Serial{SerialOutPath: console, RateLimiter: &TokenBucket{Size: trialConsoleBytes, RefillTimeMS: 1000}}),
	)
	if err != nil {
		return err
	}
	if err := client.InstanceStart(ctx); err != nil {
		return err
	}
	select {
	case <-process.Done():
	case <-ctx.Done():
		return fmt.Errorf("the kernel did not get as far as its root filesystem: %w", context.Cause(ctx))
	}
	said, err := os.ReadFile(console)
	if err != nil {
		return fmt.Errorf("read console: %w", err)
	}
	if !bytes.Contains(said, []byte("Linux version")) {
		code, _ := process.ExitCode()
		return fmt.Errorf("the VMM ended with status %d before the kernel said anything%s", code, logTail(filepath.Join(dir, "log")))
	}
	return nil
}
