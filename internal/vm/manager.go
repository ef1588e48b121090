// Package vm is the life cycle of virtual machines: create, start, stop, remove, and finding them
// again after a crash of the daemon.
//
// A VM is a record in the store, a folder (Dir) and, while it runs, a VMM process that holds the
// folder's lock. The VMM outlives the daemon.
//
// What a VM has on the host are resources (machine.go): each knows how it is taken and given back.
// A change is a flow (flow.go), a list of named steps, most of which take or give a resource; it
// runs as the VM's only operation (operation.go). A flow that fails is undone, and one that leads
// to an end, or whose undo failed too, is settled (teardown.go). Rollback, remove and the sweep at
// daemon start give back the same resources, so a new flow needs no teardown of its own.
//
// Reading a VM and talking to its guest never wait for an operation, so a VM that hangs blocks
// nobody else.
package vm

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/network"
	"banger/internal/ssh"
	"banger/internal/store"
)

const (
	// undoTimeout bounds a rollback or teardown, which does not end with its caller.
	undoTimeout = 30 * time.Second
	// agentTimeout bounds one small request to an agent.
	agentTimeout = 10 * time.Second
	// killTimeout is how long a killed VMM may take to be gone; its memory is freed in that time.
	killTimeout = 20 * time.Second
	// lockInterval is how often a lock is tried that a dying VMM still holds.
	lockInterval = 5 * time.Millisecond
)

// Options is what a Manager works with. All fields are needed.
type Options struct {
	Store   *store.Store
	Images  *image.Catalog
	Kernels *kernel.Catalog
	Network *network.Client
	Config  config.Config
	// PickVMM returns the program that runs VMs with that kernel on this host.
	PickVMM func(ctx context.Context, vmlinux string) (string, error)
	// GuestBinary is the path of banger-guest, which becomes /init of every VM.
	GuestBinary string
	Log         *slog.Logger
}

// Manager owns the VMs of one home folder. It is safe for concurrent use.
type Manager struct {
	store       *store.Store
	images      *image.Catalog
	kernels     *kernel.Catalog
	lan         *lan
	hostKeys    *hostKeys
	forwards    *forwards
	vmms        *runningVMMs
	config      config.Config
	pickVMM     func(ctx context.Context, vmlinux string) (string, error)
	guestBinary string
	log         *slog.Logger

	vmsDir string
	ctx    context.Context // ends with Close; operations and watchers end with it
	cancel context.CancelCauseFunc

	running sync.WaitGroup // operations and watchers

	// fault is asked on both sides of each step of each flow, in tests alone: what it returns is
	// the step's error.
	fault func(flow, step string, when moment) error

	mu         sync.Mutex // guards the fields below; never held over I/O
	closing    bool
	operations map[string]*operation // by VM id
	changed    chan struct{}         // closed and replaced whenever a VM's state changes
}

// New returns a Manager for the VMs under the home folder. Call Recover before anything else.
func New(o Options) *Manager {
	m := &Manager{
		store: o.Store, images: o.Images, kernels: o.Kernels, config: o.Config,
		pickVMM: o.PickVMM, guestBinary: o.GuestBinary, log: o.Log,
		lan:        newLAN(o.Network, o.Store, o.Log),
		forwards:   newForwards(o.Log),
		vmms:       &runningVMMs{byID: map[string]*runningVMM{}},
		hostKeys:   &hostKeys{ssh: ssh.HomeDir(o.Config.Home), store: o.Store, turn: newTurn()},
		vmsDir:     o.Config.Home.VMs(),
		operations: map[string]*operation{},
		changed:    make(chan struct{}),
	}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	return m
}

// Close cancels all operations, which undo themselves, waits for them and lets go of every guest.
// VMs that run go on running.
func (m *Manager) Close() error {
	m.halt()
	return errors.Join(m.forwards.close(), m.vmms.close())
}

// Retire hands the VMs over to another daemon: it refuses new operations, lets those under way end
// (or cancels them when ctx ends) and then touches no record any more. Sessions that talk to a
// guest go on until Close.
func (m *Manager) Retire(ctx context.Context) {
	m.mu.Lock()
	m.closing = true
	var under []*operation
	for _, op := range m.operations {
		under = append(under, op)
	}
	m.mu.Unlock()
	for _, op := range under {
		select {
		case <-op.done:
		case <-ctx.Done():
		}
	}
	m.halt()
	m.forwards.stopListening()
}

// WaitForwards returns when no connection of a forward is left; call it after Retire.
func (m *Manager) WaitForwards() { m.forwards.wait() }

// halt refuses new operations, cancels those under way and waits for them and for the watchers.
func (m *Manager) halt() {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	m.cancel(errClosing())
	m.running.Wait()
}

// retired reports whether the VMs are another daemon's by now.
func (m *Manager) retired() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closing
}

// VM returns one VM, by name or by a unique prefix of its id.
func (m *Manager) VM(ctx context.Context, ref string) (api.Machine, error) {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return api.Machine{}, err
	}
	return m.describe(rec), nil
}

// VMs returns all VMs, the oldest first.
func (m *Manager) VMs(ctx context.Context) ([]api.Machine, error) {
	recs, err := m.store.VMs(ctx)
	if err != nil {
		return nil, err
	}
	vms := make([]api.Machine, 0, len(recs))
	for _, rec := range recs {
		vms = append(vms, m.describe(rec))
	}
	return vms, nil
}

// Agent returns the way to a running VM's guest, and the VM.
func (m *Manager) Agent(ctx context.Context, ref string) (*guest.Client, api.Machine, error) {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return nil, api.Machine{}, err
	}
	running := m.vmms.of(rec.ID)
	if rec.State != api.StateRunning || running == nil {
		return nil, api.Machine{}, notRunning(rec)
	}
	return running.agent, m.describe(rec), nil
}

// Dir returns the folder of a VM.
func (m *Manager) Dir(id string) Dir { return Dir(filepath.Join(m.vmsDir, id)) }

func notRunning(rec store.VM) error {
	why := ""
	if rec.Reason != "" {
		why = " (" + rec.Reason + ")"
	}
	return api.Errorf(api.CodeConflict, "machine %s is %s%s", rec.Name, rec.State, why).
		WithRemedy(api.OpStartMachine.Remedy(api.StartMachine{Machine: rec.Name}, "start it"))
}

// describe turns a record into what the API shows.
func (m *Manager) describe(rec store.VM) api.Machine {
	v := api.Machine{
		ID: rec.ID, Name: rec.Name, State: rec.State, Reason: rec.Reason,
		Image: rec.ImageName, ImageID: rec.ImageID, Kernel: rec.KernelName, KernelID: rec.KernelID,
		Network: rec.Network, NAT: rec.NAT, Isolated: rec.Isolated, HostServices: rec.HostServices, MTU: rec.MTU,
		HostKey: rec.HostKey,
		CPUs:    rec.CPUs, MemoryMiB: rec.MemoryMiB, DiskMiB: rec.DiskMiB, Env: rec.Env, AutoRemove: rec.AutoRemove,
		CreatedAt: rec.CreatedAt, StartedAt: orNil(rec.StartedAt), StoppedAt: orNil(rec.StoppedAt),
		BuildsImage: rec.Builds, Dir: string(m.Dir(rec.ID)),
	}
	if rec.Address.IsValid() {
		v.Address, v.MAC = rec.Address.String(), network.MAC(rec.Address)
		v.Address6 = network.Address6(rec.Address).String()
		if m.config.Subnet.Contains(rec.Address) { // otherwise the setting has changed since it was made
			v.Gateway = network.Gateway(m.config.Subnet).String()
		}
	}
	v.Forwards = m.forwards.describe(rec.ID, rec.Forwards)
	if rec.VMMPID != 0 {
		v.VMM = &api.VMM{Binary: rec.VMMBinary, PID: rec.VMMPID}
	}
	return v
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
