package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/network"
	"banger/internal/store"
)

const (
	minMemoryMiB = 128      // less does not hold the kernel, its initrd and systemd
	minDiskMiB   = 64       // less does not hold an ext4 with a journal
	minFreeBytes = 64 << 20 // on the host: a VM that cannot write anything is no use
	maxDiskMiB   = 8 << 20  // 8 TiB; ext4 with 4 KiB blocks ends at 16
	maxCPUs      = 32       // Firecracker's own limit
	maxEnv       = 256
	maxForwards  = 64
)

// createFlow makes a VM.
func (m *Manager) createFlow(x *machine) flow {
	return flow{name: "create", steps: []step{
		taking("record machine", x.record),
		taking("make folder", x.folder),
		{name: "make disk", do: func(ctx context.Context) error { return makeDisk(ctx, x) }}, // lies in the folder
		m.finishRecord(x),
	}}
}

// Create makes a VM and leaves it stopped. When ctx ends before it returns, nothing is left of the
// VM; an image or kernel that was made for it stays.
func (m *Manager) Create(ctx context.Context, want api.CreateMachine) (api.Machine, error) {
	rec, err := m.plan(want)
	if err != nil {
		return api.Machine{}, err
	}
	if err := m.checkNameFree(ctx, rec.Name); err != nil {
		return api.Machine{}, err
	}
	image, err := m.images.Ensure(ctx, cmp.Or(want.Image, m.config.Image))
	if err != nil {
		return api.Machine{}, err
	}
	kernel, err := m.kernels.Ensure(ctx, cmp.Or(want.Kernel, image.KernelID, want.KernelDefault, m.config.Kernel))
	if err != nil {
		return api.Machine{}, err
	}
	rec.ImageID, rec.ImageName, rec.KernelID, rec.KernelName = image.ID, image.Name, kernel.ID, kernel.Name
	x := m.machine(rec)
	if err := x.dir.checkSocketPaths(); err != nil {
		return api.Machine{}, err
	}
	err = m.operate(ctx, rec.ID, "create", 0, func(ctx context.Context) error {
		return m.make(ctx, x, m.createFlow(x))
	})
	if err != nil {
		return api.Machine{}, fmt.Errorf("create machine %s: %w", x.rec.Name, err)
	}
	return m.VM(ctx, rec.ID)
}

// plan checks what is asked for and fills in the defaults.
func (m *Manager) plan(want api.CreateMachine) (store.VM, error) {
	rec := store.VM{
		ID: newID(), Name: want.Name,
		CPUs:      cmp.Or(want.CPUs, m.config.CPUs),
		MemoryMiB: cmp.Or(want.MemoryMiB, m.config.MemoryMiB), DiskMiB: cmp.Or(want.DiskMiB, m.config.DiskMiB),
		Network: cmp.Or(want.Network, m.config.Network), Isolated: want.Isolated, HostServices: want.HostServices,
		Env: want.Env, AutoRemove: want.AutoRemove, Leased: want.Lease, State: api.StateCreating, Forwards: want.Forwards,
	}
	if rec.Network != api.NetworkUser && rec.Network != api.NetworkNone {
		return rec, api.Errorf(api.CodeInvalid, "unknown network %q", rec.Network).
			WithHint("one of %s, %s", api.NetworkUser, api.NetworkNone)
	}
	if rec.Network == api.NetworkUser {
		if err := network.CheckSubnet(m.config.Subnet); err != nil {
			return rec, api.Errorf(api.CodeInvalid, "setting subnet: %w", err)
		}
	}
	if len(rec.HostServices) > 0 && rec.Network == api.NetworkNone {
		return rec, api.Errorf(api.CodeInvalid, "a machine without a network reaches no service of the host").
			WithHint("leave out --net none or --host-service")
	}
	if err := checkHostServices(rec.HostServices); err != nil {
		return rec, err
	}
	rec.NAT = rec.Network == api.NetworkUser
	for i := range rec.Forwards {
		if err := completeForward(&rec.Forwards[i]); err != nil {
			return rec, err
		}
	}
	if rec.Name != "" {
		if err := CheckName(rec.Name); err != nil {
			return rec, err
		}
	}
	hostMiB, err := hostMemoryMiB()
	if err != nil {
		return rec, err
	}
	return rec, checkSize(rec, hostMiB)
}

// checkSize refuses what no VMM or this host could run.
func checkSize(v store.VM, hostMemoryMiB int) error {
	switch {
	case v.CPUs < 1 || v.CPUs > maxCPUs:
		return api.Errorf(api.CodeInvalid, "%d CPUs: a machine has 1 to %d", v.CPUs, maxCPUs)
	case v.MemoryMiB < minMemoryMiB:
		return api.Errorf(api.CodeInvalid, "%d MiB of memory: a machine needs %d MiB at least", v.MemoryMiB, minMemoryMiB)
	case v.MemoryMiB > hostMemoryMiB:
		return api.Errorf(api.CodeInvalid, "%d MiB of memory: this host has %d MiB", v.MemoryMiB, hostMemoryMiB).
			WithHint("ask for less with --memory")
	case v.DiskMiB < minDiskMiB || v.DiskMiB > maxDiskMiB:
		return api.Errorf(api.CodeInvalid, "a disk of %d MiB: it can have %d MiB to %d MiB",
			v.DiskMiB, minDiskMiB, maxDiskMiB)
	case len(v.Forwards) > maxForwards:
		return api.Errorf(api.CodeInvalid, "%d forwards: a machine has at most %d", len(v.Forwards), maxForwards)
	case len(v.Env) > maxEnv:
		return api.Errorf(api.CodeInvalid, "%d environment variables: at most %d", len(v.Env), maxEnv)
	}
	for _, kv := range v.Env {
		if key, _, ok := strings.Cut(kv, "="); !ok || key == "" || strings.ContainsRune(kv, 0) {
			return api.Errorf(api.CodeInvalid, "bad environment variable %q", kv).WithHint("write it as NAME=VALUE")
		}
	}
	return nil
}

func hostMemoryMiB() (int, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read the host's memory: %w", err)
	}
	return int(info.Totalram * uint64(info.Unit) >> 20), nil
}

// checkNameFree says so early when a name is taken, before an image is built for nothing; the
// insert decides.
func (m *Manager) checkNameFree(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	rec, err := m.store.VM(ctx, name)
	if err == nil && rec.Name == name {
		return api.Errorf(api.CodeConflict, "a machine named %q exists already", name).
			WithRemedy(api.OpRemoveMachine.Remedy(api.RemoveMachine{Machine: name}, "choose another name, or remove it"))
	}
	if err != nil && api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	return nil
}

// make performs a flow that makes a VM; when it fails nothing is left of the VM.
func (m *Manager) make(ctx context.Context, x *machine, f flow) error {
	defer m.stateChanged()
	clean, err := m.perform(ctx, f)
	if clean {
		return err
	}
	return errors.Join(err, m.settle(ctx, x, ending{remove: true}))
}

func makeDisk(ctx context.Context, x *machine) error {
	if err := disk.RequireFree(string(x.dir), minFreeBytes); err != nil {
		return err
	}
	return disk.CreateExt4(ctx, x.dir.Disk(), int64(x.rec.DiskMiB)<<20, diskLabel)
}

// finishRecord is the step by which a VM is there.
func (m *Manager) finishRecord(x *machine) step {
	return step{
		name: "finish record",
		do: func(ctx context.Context) error {
			return m.store.SetState(ctx, x.rec.ID, api.StateStopped, "never started")
		},
		undo: func(ctx context.Context) error { return m.store.SetState(ctx, x.rec.ID, api.StateCreating, "") },
	}
}
