package control

import (
	"context"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/hostinfo"
)

// VMs lists all machines.
func (c *Control) VMs(ctx context.Context, _ api.None) ([]api.VM, error) { return c.o.VMs.VMs(ctx) }

// VM returns one machine.
func (c *Control) VM(ctx context.Context, in api.VMRef) (api.VM, error) {
	return c.o.VMs.VM(ctx, in.VM)
}

// CreateVM makes a machine.
func (c *Control) CreateVM(ctx context.Context, in api.CreateVM) (api.VM, error) {
	return c.o.VMs.Create(ctx, in)
}

// StartVM starts a machine.
func (c *Control) StartVM(ctx context.Context, in api.StartVM) (api.VM, error) {
	boot, err := milliseconds("boot_timeout_ms", in.BootTimeoutMS)
	if err != nil {
		return api.VM{}, err
	}
	return c.o.VMs.Start(ctx, in.VM, boot)
}

// StopVM shuts a machine down.
func (c *Control) StopVM(ctx context.Context, in api.StopVM) (api.VM, error) {
	timeout, err := milliseconds("timeout_ms", in.TimeoutMS)
	if err != nil {
		return api.VM{}, err
	}
	return c.o.VMs.Stop(ctx, in.VM, timeout)
}

// RestartVM stops a machine, then starts it.
func (c *Control) RestartVM(ctx context.Context, in api.RestartVM) (api.VM, error) {
	stop, err := milliseconds("timeout_ms", in.TimeoutMS)
	if err != nil {
		return api.VM{}, err
	}
	boot, err := milliseconds("boot_timeout_ms", in.BootTimeoutMS)
	if err != nil {
		return api.VM{}, err
	}
	return c.o.VMs.Restart(ctx, in.VM, stop, boot)
}

// milliseconds checks a timeout of a request; 0 stays the daemon's own.
func milliseconds(field string, ms int64) (time.Duration, error) {
	if ms < 0 {
		return 0, api.Errorf(api.CodeInvalid, "%s: a timeout of %d ms", field, ms)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// KillVM signals a machine's VMM.
func (c *Control) KillVM(ctx context.Context, in api.KillVM) (api.VM, error) {
	signal, err := parseSignal(in.Signal)
	if err != nil {
		return api.VM{}, err
	}
	return c.o.VMs.Kill(ctx, in.VM, signal)
}

// parseSignal reads "KILL", "SIGKILL" or "9"; empty is KILL.
func parseSignal(text string) (unix.Signal, error) {
	if text == "" {
		return unix.SIGKILL, nil
	}
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if signal := unix.SignalNum(name); signal != 0 {
		return signal, nil
	}
	return 0, api.Errorf(api.CodeInvalid, "unknown signal %q", text).WithHint("give a name such as TERM, or a number from 1 to 64")
}

// RemoveVM deletes a machine.
func (c *Control) RemoveVM(ctx context.Context, in api.RemoveVM) (api.None, error) {
	return api.None{}, c.o.VMs.Remove(ctx, in.VM, in.Force)
}

// LeaseVM calls held once the lease is taken, and returns when ctx has ended and the machine is gone.
func (c *Control) LeaseVM(ctx context.Context, in api.VMRef, held func()) error {
	return c.o.VMs.Lease(ctx, in.VM, held, c.o.RemoveBySuccessor)
}

// WaitVM returns when the machine meets the condition.
func (c *Control) WaitVM(ctx context.Context, in api.WaitVM) (api.VM, error) {
	return c.o.VMs.Wait(ctx, in.VM, in.For)
}

// SetNAT opens or closes a machine's way to the world.
func (c *Control) SetNAT(ctx context.Context, in api.SetNAT) (api.VM, error) {
	return c.o.VMs.SetNAT(ctx, in.VM, in.On)
}

// SetHostServices gives a machine the host's services that it may reach.
func (c *Control) SetHostServices(ctx context.Context, in api.SetHostServices) (api.VM, error) {
	return c.o.VMs.SetHostServices(ctx, in.VM, in.Ports)
}

// AddForward makes a port of a machine reachable.
func (c *Control) AddForward(ctx context.Context, in api.AddForward) (api.Forward, error) {
	return c.o.VMs.AddForward(ctx, in.VM, in.Forward())
}

// RemoveForward ends a forward.
func (c *Control) RemoveForward(ctx context.Context, in api.RemoveForward) (api.None, error) {
	f := api.Forward{Protocol: in.Protocol, Host: in.Host, HostPort: in.HostPort}
	return api.None{}, c.o.VMs.RemoveForward(ctx, in.VM, f)
}

// Ports lists what listens in a machine.
func (c *Control) Ports(ctx context.Context, in api.VMRef) ([]api.Port, error) {
	return c.o.VMs.Ports(ctx, in.VM)
}

// PrepareSSH makes a machine ready for an ssh connection.
func (c *Control) PrepareSSH(ctx context.Context, in api.PrepareSSH) (api.SSH, error) {
	return c.o.VMs.PrepareSSH(ctx, in.VM, in.NewHostKey)
}

// StatsVM asks a running machine what it uses.
func (c *Control) StatsVM(ctx context.Context, in api.VMRef) (api.Stats, error) {
	agent, v, err := c.o.VMs.Agent(ctx, in.VM)
	if err != nil {
		return api.Stats{}, err
	}
	got, err := agent.Stats(ctx)
	if err != nil {
		return api.Stats{}, err
	}
	stats := api.Stats{
		Name: v.Name, ID: v.ID, CPUs: v.CPUs, Load1: got.Load1, GuestCPUMS: got.CPUBusy.Milliseconds(),
		MemoryTotalBytes: got.MemoryTotalBytes, MemoryUsedBytes: got.MemoryTotalBytes - got.MemoryAvailableBytes,
		DiskTotalBytes: got.DiskTotalBytes, DiskUsedBytes: got.DiskTotalBytes - got.DiskAvailableBytes,
		Processes: got.Processes, At: time.Now(),
	}
	usage, err := disk.UsageOf(c.o.VMs.Dir(v.ID).Disk())
	if err != nil {
		return stats, err
	}
	stats.HostDiskBytes = usage.AllocatedBytes
	if v.VMM != nil {
		stats.HostMemoryBytes, err = hostinfo.TreeRSSBytes(v.VMM.PID)
	}
	return stats, err
}
