package control

import (
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/hostinfo"
)

// Machines lists all of them.
func (c *Control) Machines(ctx context.Context, _ api.None) ([]api.Machine, error) {
	return c.o.VMs.VMs(ctx)
}

// Machine returns one of them.
func (c *Control) Machine(ctx context.Context, in api.MachineRef) (api.Machine, error) {
	return c.o.VMs.VM(ctx, in.Machine)
}

// CreateMachine makes a machine.
func (c *Control) CreateMachine(ctx context.Context, in api.CreateMachine) (api.Machine, error) {
	return c.o.VMs.Create(ctx, in)
}

// StartMachine starts a machine.
func (c *Control) StartMachine(ctx context.Context, in api.StartMachine) (api.Machine, error) {
	boot, err := milliseconds("boot_timeout_ms", in.BootTimeoutMS)
	if err != nil {
		return api.Machine{}, err
	}
	return c.o.VMs.Start(ctx, in.Machine, boot)
}

// StopMachine shuts a machine down.
func (c *Control) StopMachine(ctx context.Context, in api.StopMachine) (api.Machine, error) {
	timeout, err := milliseconds("timeout_ms", in.TimeoutMS)
	if err != nil {
		return api.Machine{}, err
	}
	return c.o.VMs.Stop(ctx, in.Machine, timeout)
}

// RestartMachine stops a machine, then starts it.
func (c *Control) RestartMachine(ctx context.Context, in api.RestartMachine) (api.Machine, error) {
	stop, err := milliseconds("timeout_ms", in.TimeoutMS)
	if err != nil {
		return api.Machine{}, err
	}
	boot, err := milliseconds("boot_timeout_ms", in.BootTimeoutMS)
	if err != nil {
		return api.Machine{}, err
	}
	return c.o.VMs.Restart(ctx, in.Machine, stop, boot)
}

// milliseconds checks a timeout of a request; 0 stays the daemon's own.
func milliseconds(field string, ms int64) (time.Duration, error) {
	if ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		return 0, api.Errorf(api.CodeInvalid, "%s: a timeout of %d ms", field, ms)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// KillMachine signals a machine's VMM.
func (c *Control) KillMachine(ctx context.Context, in api.KillMachine) (api.Machine, error) {
	signal, err := parseSignal(in.Signal)
	if err != nil {
		return api.Machine{}, err
	}
	return c.o.VMs.Kill(ctx, in.Machine, signal)
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

// RemoveMachine deletes a machine.
func (c *Control) RemoveMachine(ctx context.Context, in api.RemoveMachine) (api.None, error) {
	return api.None{}, c.o.VMs.Remove(ctx, in.Machine, in.Force)
}

// LeaseMachine calls held once the lease is taken, and returns when ctx has ended and the machine
// is gone.
func (c *Control) LeaseMachine(ctx context.Context, in api.MachineRef, held func()) error {
	return c.o.VMs.Lease(ctx, in.Machine, held, c.o.RemoveBySuccessor)
}

// WaitMachine returns when the machine meets the condition.
func (c *Control) WaitMachine(ctx context.Context, in api.WaitMachine) (api.Machine, error) {
	return c.o.VMs.Wait(ctx, in.Machine, in.For)
}

// SetNAT opens or closes a machine's way to the world.
func (c *Control) SetNAT(ctx context.Context, in api.SetNAT) (api.Machine, error) {
	return c.o.VMs.SetNAT(ctx, in.Machine, in.On)
}

// SetHostServices gives a machine the host's services that it may reach.
func (c *Control) SetHostServices(ctx context.Context, in api.SetHostServices) (api.Machine, error) {
	return c.o.VMs.SetHostServices(ctx, in.Machine, in.Ports)
}

// AddForward makes a port of a machine reachable.
func (c *Control) AddForward(ctx context.Context, in api.AddForward) (api.Forward, error) {
	return c.o.VMs.AddForward(ctx, in.Machine, in.Forward())
}

// RemoveForward ends a forward.
func (c *Control) RemoveForward(ctx context.Context, in api.RemoveForward) (api.None, error) {
	f := api.Forward{Protocol: in.Protocol, Host: in.Host, HostPort: in.HostPort}
	return api.None{}, c.o.VMs.RemoveForward(ctx, in.Machine, f)
}

// Ports lists what listens in a machine.
func (c *Control) Ports(ctx context.Context, in api.MachineRef) ([]api.Port, error) {
	return c.o.VMs.Ports(ctx, in.Machine)
}

// PrepareSSH makes a machine ready for an ssh connection.
func (c *Control) PrepareSSH(ctx context.Context, in api.PrepareSSH) (api.SSH, error) {
	return c.o.VMs.PrepareSSH(ctx, in.Machine, in.NewHostKey)
}

// StatsMachine asks a running machine what it uses.
func (c *Control) StatsMachine(ctx context.Context, in api.MachineRef) (api.Stats, error) {
	agent, v, err := c.o.VMs.Agent(ctx, in.Machine)
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
