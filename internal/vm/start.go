package vm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"banger/api"
	"banger/internal/firecracker"
	"banger/internal/guest"
	"banger/internal/store"
)

// starting is a start under way: the VM, and what a step learns that a later one needs.
type starting struct {
	host        *Manager
	x           *machine
	files       bootFiles
	bootTimeout time.Duration       // of the agent
	client      *firecracker.Client // of the VMM's API, for when it is there
}

// startFlow brings a stopped VM up.
func (m *Manager) startFlow(x *machine, bootTimeout time.Duration) flow {
	s := &starting{host: m, x: x, bootTimeout: bootTimeout, client: firecracker.NewClient(x.dir.APISocket())}
	return flow{name: "start", steps: []step{
		{name: "check files", do: s.checkFiles},
		{name: "record start", do: s.recordStart}, // what follows it is undone by the state that stop records
		taking("take lock", x.lock),
		taking("join network", x.port),
		taking("open forwards", x.ports),
		taking("start VMM", x.vmm),
		{name: "configure VMM", do: s.configure},
		{name: "boot kernel", do: s.client.InstanceStart},
		{name: "wait for agent", do: s.waitAgent},
		{name: "set clock", do: s.setClock},
		{name: "authorize key", do: s.authorizeKey}, // lies in the guest's memory
		{name: "record running", do: s.recordRunning, undo: s.unrecordRunning},
	}}
}

// Start starts a VM and returns when its agent answers. A VM that runs is left as it is. When ctx
// ends before, the VM is stopped again.
//
// bootTimeout is how long the agent may take; 0 means the configured time.
func (m *Manager) Start(ctx context.Context, ref string, bootTimeout time.Duration) (api.Machine, error) {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return api.Machine{}, err
	}
	err = m.change(ctx, rec.ID, "start", 0, func(ctx context.Context, x *machine) error {
		runs, err := m.runs(x)
		if err != nil || runs {
			return err
		}
		if err := m.checkAddress(x.rec); err != nil {
			return err
		}
		if x.rec.State != api.StateStopped {
			if err := m.settleBeforeStart(ctx, x); err != nil {
				return err
			}
		}
		return m.start(ctx, x, bootTimeout)
	})
	if err != nil {
		return api.Machine{}, err
	}
	return m.VM(ctx, rec.ID)
}

// runs reports whether a VM runs whose record says so. One that this daemon knows no VMM of may
// have ended when its record could not be written; the lock tells.
func (m *Manager) runs(x *machine) (bool, error) {
	if x.rec.State != api.StateRunning {
		return false, nil
	}
	if running := m.vmms.of(x.rec.ID); running != nil {
		return running.alive(), nil
	}
	free, err := tryLock(x.dir.Lock())
	if err != nil || free == nil {
		return free == nil, err
	}
	return false, free.Close()
}

// checkAddress refuses to start a VM that was made in another subnet: nobody would reach it.
func (m *Manager) checkAddress(rec *store.VM) error {
	if rec.Network == api.NetworkNone || !rec.Address.IsValid() || m.config.Subnet.Contains(rec.Address) {
		return nil
	}
	return api.Errorf(api.CodeConflict, "machine %s has the address %s, which is not of the subnet %s", rec.Name, rec.Address, m.config.Subnet).
		WithHint("set the subnet that it was made in, or make it anew").
		WithRemedy(api.OpStatus.Remedy(api.None{}, "see the setting subnet"))
}

// settleBeforeStart stops a VM whose VMM has just ended, or that a flow left on its way which could
// be neither done nor undone: no other operation is under way.
func (m *Manager) settleBeforeStart(ctx context.Context, x *machine) error {
	e := ending{reason: "it was " + string(x.rec.State) + " for no operation"}
	if x.rec.State == api.StateRunning {
		e.reason = endReason(nil, x.dir)
		if running := m.vmms.of(x.rec.ID); running != nil {
			e.reason = endReason(running.process, x.dir)
		}
	}
	err := m.settle(ctx, x, e)
	if err == nil {
		*x.rec, err = m.store.VM(ctx, x.rec.ID)
	}
	if err == nil && x.rec.State != api.StateStopped {
		err = api.Errorf(api.CodeConflict, "machine %s is %s", x.rec.Name, x.rec.State)
	}
	return err
}

// start performs the start and, when it fails, records why the VM is stopped again.
func (m *Manager) start(ctx context.Context, x *machine, bootTimeout time.Duration) error {
	defer m.stateChanged()
	clean, err := m.perform(ctx, m.startFlow(x, cmp.Or(bootTimeout, m.config.BootTimeout)))
	if err == nil {
		m.watch(x.rec.ID, m.vmms.of(x.rec.ID))
		return nil
	}
	err = fmt.Errorf("start machine %s: %w", x.rec.Name, err)
	e := ending{reason: firstLine(err)}
	if clean {
		if recordErr := m.recordStopped(ctx, x, e.reason); recordErr == nil {
			return err
		}
	}
	return errors.Join(err, m.settle(ctx, x, e))
}

// checkFiles verifies what the VM is booted from and prepares what it has in common with others.
func (s *starting) checkFiles(ctx context.Context) error {
	if _, err := os.Stat(s.x.dir.Disk()); err != nil {
		return api.Errorf(api.CodeNotFound, "the disk of machine %s is gone: %w", s.x.rec.Name, err).
			WithRemedy(api.OpRemoveMachine.Remedy(api.RemoveMachine{Machine: s.x.rec.Name}, "its data is lost; remove it"))
	}
	images, kernels := s.host.images, s.host.kernels
	if err := images.Verify(ctx, s.x.rec.ImageID); err != nil {
		return err
	}
	if err := kernels.Verify(ctx, s.x.rec.KernelID); err != nil {
		return err
	}
	initrd, err := kernels.Initrd(ctx, s.x.rec.KernelID, s.host.guestBinary)
	if err != nil {
		return err
	}
	s.files = bootFiles{
		vmlinux: kernels.Vmlinux(s.x.rec.KernelID), modules: kernels.Modules(s.x.rec.KernelID), initrd: initrd,
	}
	if s.x.rec.Builds != "" { // its disk is a copy of the image, with a label of ours
		s.files.inputs = s.x.dir.Inputs()
	} else {
		s.files.rootfs = images.Rootfs(s.x.rec.ImageID)
		if s.files.imageUUID, err = images.ForeignUUID(s.x.rec.ImageID); err != nil {
			return err
		}
	}
	s.x.vmm.binary, err = s.host.pickVMM(ctx, s.files.vmlinux)
	return err
}

// recordStart says that from here on a VMM may be there, until stop has recorded that there is
// none.
func (s *starting) recordStart(ctx context.Context) error {
	defer s.host.stateChanged()
	return s.host.store.SetStarting(ctx, s.x.rec.ID, s.x.vmm.binary)
}

func (s *starting) configure(ctx context.Context) error {
	network := guestNetwork{s.x.port.tap, s.x.rec.Address, s.host.config.Subnet}
	plan := planBoot(s.x.rec.Name, s.x.rec.CPUs, s.x.rec.MemoryMiB, s.x.dir, s.files, network)
	if err := s.client.PutMachineConfig(ctx, plan.machine); err != nil {
		return err
	}
	if err := s.client.PutBootSource(ctx, plan.source); err != nil {
		return err
	}
	for _, drive := range plan.drives {
		if err := s.client.PutDrive(ctx, drive); err != nil {
			return err
		}
	}
	for _, nic := range plan.nics {
		if err := s.client.PutNetworkInterface(ctx, nic); err != nil {
			return err
		}
	}
	if err := s.client.PutVsock(ctx, plan.vsock); err != nil {
		return err
	}
	if err := s.client.PutSerial(ctx, plan.serial); err != nil {
		return err
	}
	if err := s.client.PutBalloon(ctx, plan.balloon); err != nil {
		return err
	}
	return s.client.PutEntropy(ctx, firecracker.Entropy{})
}

// agent is the way to the guest; there is a VMM.
func (s *starting) agent() *guest.Client { return s.host.vmms.of(s.x.rec.ID).agent }

// waitAgent waits until the agent answers, the VMM dies or the deadline passes; then the error
// shows the console, and of a VMM that died its last words.
func (s *starting) waitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.bootTimeout,
		api.Errorf(api.CodeTimeout, "the guest's agent did not answer within %s", s.bootTimeout))
	defer cancel()
	watched, died := context.WithCancelCause(ctx)
	defer died(nil)
	running := s.host.vmms.of(s.x.rec.ID)
	go func() {
		select {
		case <-running.process.Done():
			died(errors.New("the VMM ended before the guest's agent answered"))
		case <-watched.Done():
		}
	}()
	_, err := running.agent.WaitReady(watched)
	if err == nil {
		return nil
	}
	if cause := context.Cause(watched); cause != nil {
		err = cause
	}
	said := quoteTail("console", s.x.dir.ConsoleLog())
	if !running.alive() {
		said += quoteTail("VMM log", s.x.dir.VMMLog())
	}
	return fmt.Errorf("%w%s", err, said)
}

// setClock gives the guest the host's time and fresh entropy: a VMM may have neither a clock nor a
// seed for it.
func (s *starting) setClock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	var seed [entropyBytes]byte
	rand.Read(seed[:]) // never fails, see crypto/rand
	if err := s.agent().AddEntropy(ctx, seed[:]); err != nil {
		return err
	}
	return s.agent().SetTime(ctx, time.Now())
}

func (s *starting) recordRunning(ctx context.Context) error {
	return s.host.store.SetRunning(ctx, s.x.rec.ID, time.Now())
}

// unrecordRunning leads back to where only the VM's end leads on.
func (s *starting) unrecordRunning(ctx context.Context) error {
	return s.host.store.SetState(ctx, s.x.rec.ID, api.StateStarting, "")
}

// quoteTail returns the last lines of a log under a title, or nothing when there are none.
func quoteTail(title, path string) string {
	tail := bytes.TrimSpace(tailOf(path, 2<<10))
	if len(tail) == 0 {
		return ""
	}
	lines := strings.Split(string(tail), "\n")
	if len(lines) > 10 {
		lines = lines[len(lines)-10:]
	}
	return "\n" + title + " ends:\n  " + strings.Join(lines, "\n  ")
}

// tailOf returns at most the last n bytes of a file, and nothing when it cannot be read: it only
// adorns an error.
func tailOf(path string, n int64) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil
	}
	tail := make([]byte, min(n, info.Size()))
	read, _ := file.ReadAt(tail, info.Size()-int64(len(tail)))
	return tail[:read]
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
