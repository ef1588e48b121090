package vm

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

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

// machine is one VM as an operation works on it: the record as it was read, and what the steps take.
type machine struct {
	*Manager
	rec store.VM
	dir Dir
	launch
	build *Build // what it is made for; nil for a VM of its own, and when another daemon has made it

	bootTimeout time.Duration // of its agent, when it is started
}

func (m *Manager) machine(rec store.VM) *machine {
	return &machine{Manager: m, rec: rec, dir: m.Dir(rec.ID)}
}

// createSteps make a VM. Removing it undoes them.
var createSteps = []step{
	{"record VM", (*machine).insertRecord, (*machine).deleteRecord},
	{"make folder", (*machine).makeFolder, (*machine).removeFolder},
	{"make disk", (*machine).makeDisk, nil}, // lies in the folder
	{"finish record", (*machine).finishRecord, nil},
}

// Create makes a VM and leaves it stopped. When ctx ends before it returns, nothing is left of the VM; an image or
// kernel that was made for it stays.
func (m *Manager) Create(ctx context.Context, want api.CreateVM) (api.VM, error) {
	rec, err := m.plan(want)
	if err != nil {
		return api.VM{}, err
	}
	if err := m.checkNameFree(ctx, rec.Name); err != nil {
		return api.VM{}, err
	}
	image, err := m.Images.Ensure(ctx, orDefault(want.Image, m.Config.Image))
	if err != nil {
		return api.VM{}, err
	}
	kernel, err := m.Kernels.Ensure(ctx, cmp.Or(want.Kernel, image.KernelID, want.KernelDefault, m.Config.Kernel))
	if err != nil {
		return api.VM{}, err
	}
	rec.ImageID, rec.ImageName, rec.KernelID, rec.KernelName = image.ID, image.Name, kernel.ID, kernel.Name
	machine := m.machine(rec)
	if err := machine.dir.checkSocketPaths(); err != nil {
		return api.VM{}, err
	}
	err = m.operate(ctx, rec.ID, "create", 0, func(ctx context.Context) error {
		defer m.stateChanged()
		_, err := perform(ctx, machine, createSteps)
		return err
	})
	if err != nil {
		return api.VM{}, fmt.Errorf("create VM %s: %w", machine.rec.Name, err)
	}
	return m.VM(ctx, rec.ID)
}

// plan checks what is asked for and fills in the defaults.
func (m *Manager) plan(want api.CreateVM) (store.VM, error) {
	rec := store.VM{
		ID: newID(), Name: want.Name,
		CPUs: orDefault(want.CPUs, m.Config.CPUs), MemoryMiB: orDefault(want.MemoryMiB, m.Config.MemoryMiB), DiskMiB: orDefault(want.DiskMiB, m.Config.DiskMiB),
		Network: orDefault(want.Network, m.Config.Network), Isolated: want.Isolated, HostServices: want.HostServices,
		Env: want.Env, AutoRemove: want.AutoRemove, Leased: want.Lease, State: api.StateCreating, Forwards: want.Forwards,
	}
	if rec.Network != api.NetworkUser && rec.Network != api.NetworkNone {
		return rec, api.Errorf(api.CodeInvalid, "unknown network %q", rec.Network).WithHint("one of %s, %s", api.NetworkUser, api.NetworkNone)
	}
	if rec.Network == api.NetworkUser {
		if err := network.CheckSubnet(m.Config.Subnet); err != nil {
			return rec, api.Errorf(api.CodeInvalid, "setting subnet: %w", err)
		}
	}
	if len(rec.HostServices) > 0 && rec.Network == api.NetworkNone {
		return rec, api.Errorf(api.CodeInvalid, "a VM without a network reaches no service of the host").WithHint("leave out --net none or --host-service")
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
		return api.Errorf(api.CodeInvalid, "%d CPUs: a VM has 1 to %d", v.CPUs, maxCPUs)
	case v.MemoryMiB < minMemoryMiB:
		return api.Errorf(api.CodeInvalid, "%d MiB of memory: a VM needs %d MiB at least", v.MemoryMiB, minMemoryMiB)
	case v.MemoryMiB > hostMemoryMiB:
		return api.Errorf(api.CodeInvalid, "%d MiB of memory: this host has %d MiB", v.MemoryMiB, hostMemoryMiB).WithHint("ask for less with --memory")
	case v.DiskMiB < minDiskMiB || v.DiskMiB > maxDiskMiB:
		return api.Errorf(api.CodeInvalid, "a disk of %d MiB: it can have %d MiB to %d MiB", v.DiskMiB, minDiskMiB, maxDiskMiB)
	case len(v.Forwards) > maxForwards:
		return api.Errorf(api.CodeInvalid, "%d forwards: a VM has at most %d", len(v.Forwards), maxForwards)
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

// checkNameFree says so early when a name is taken, before an image is built for nothing; the insert decides.
func (m *Manager) checkNameFree(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	rec, err := m.Store.VM(ctx, name)
	if err == nil && rec.Name == name {
		return api.Errorf(api.CodeConflict, "a VM named %q exists already", name).WithHint("choose another name, or remove it: banger rm %s", name)
	}
	if err != nil && api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	return nil
}

func orDefault[T comparable](value, standard T) T {
	var zero T
	if value == zero {
		return standard
	}
	return value
}

// insertRecord inserts the record. A made-up name that is taken gets digits of the id, which are the VM's own.
func (m *machine) insertRecord(ctx context.Context) error {
	m.rec.CreatedAt = time.Now()
	if m.rec.Name != "" {
		return m.Store.InsertVM(ctx, &m.rec, m.leaseAddress)
	}
	name := madeUpName()
	if m.rec.Builds != "" {
		name = buildName(m.rec.Builds)
	}
	var err error
	for _, m.rec.Name = range []string{name, name + "-" + m.rec.ID[:4], name + "-" + m.rec.ID} {
		if err = m.Store.InsertVM(ctx, &m.rec, m.leaseAddress); api.CodeOf(err) != api.CodeConflict {
			return err
		}
	}
	return err
}

func (m *Manager) leaseAddress(taken map[netip.Addr]bool) (netip.Addr, error) {
	address, err := network.NextAddress(m.Config.Subnet, taken)
	if err != nil {
		return address, api.Errorf(api.CodeUnavailable, "%w", err).WithHint("remove VMs, or choose a larger subnet: see banger config show")
	}
	return address, nil
}

func (m *machine) deleteRecord(ctx context.Context) error {
	if err := m.Store.DeleteVM(ctx, m.rec.ID); err != nil {
		return err
	}
	return m.forgetHostKey(ctx)
}

func (m *machine) makeFolder(context.Context) error {
	return os.MkdirAll(string(m.dir), 0o700)
}

func (m *machine) removeFolder(context.Context) error { return os.RemoveAll(string(m.dir)) }

func (m *machine) makeDisk(ctx context.Context) error {
	if err := disk.RequireFree(string(m.dir), minFreeBytes); err != nil {
		return err
	}
	return disk.CreateExt4(ctx, m.dir.Disk(), int64(m.rec.DiskMiB)<<20, diskLabel)
}

func (m *machine) finishRecord(ctx context.Context) error {
	return m.Store.SetState(ctx, m.rec.ID, api.StateStopped, "never started")
}
