package vm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/firecracker"
	"banger/internal/guest"
	"banger/internal/network"
)

// launch is what a start takes, step by step.
type launch struct {
	binary string // the VMM's program
	initrd string
	// imageUUID is that of the image's filesystem, when it has not the label that banger gives; else empty.
	imageUUID string
	lock      *os.File // ours until the VMM has inherited it
	live      *live
	vmm       *firecracker.Client
	tap       network.Tap                  // the zero value without a network
	enter     func(argv []string) []string // runs the VMM where its tap is; nil without a network
}

// startSteps bring a stopped VM up. Undone in reverse they stop a VM in whatever state it is.
var startSteps = []step{
	{"check files", (*machine).checkFiles, nil},
	{"record start", (*machine).recordStart, nil}, // what follows it is undone by the state that stop records
	{"take lock", (*machine).takeLock, (*machine).dropLock},
	{"join network", (*machine).joinNetwork, (*machine).leaveNetwork},
	{"open forwards", (*machine).openForwards, (*machine).closeForwards},
	{"start VMM", (*machine).startVMM, (*machine).endVMM},
	{"configure VMM", (*machine).configure, nil},
	{"boot kernel", (*machine).boot, nil},
	{"wait for agent", (*machine).waitAgent, nil},
	{"set clock", (*machine).setClock, nil},
	{"authorize key", (*machine).authorizeKey, nil}, // lies in the guest's memory
	{"record running", (*machine).recordRunning, nil},
}

// Start starts a VM and returns when its agent answers. A VM that runs is left as it is. When ctx ends before, the
// VM is stopped again.
//
// bootTimeout is how long the agent may take; 0 means the configured time.
func (m *Manager) Start(ctx context.Context, ref string, bootTimeout time.Duration) (api.VM, error) {
	rec, err := m.Store.VM(ctx, ref)
	if err != nil {
		return api.VM{}, err
	}
	err = m.operate(ctx, rec.ID, "start", 0, func(ctx context.Context) error {
		if rec, err = m.Store.VM(ctx, rec.ID); err != nil || rec.State == api.StateRunning {
			return err
		}
		if rec.State != api.StateStopped {
			return api.Errorf(api.CodeConflict, "VM %s is %s", rec.Name, rec.State)
		}
		machine := m.machine(rec)
		machine.bootTimeout = cmp.Or(bootTimeout, m.Config.BootTimeout)
		return m.start(ctx, machine)
	})
	if err != nil {
		return api.VM{}, err
	}
	return m.VM(ctx, rec.ID)
}

// start performs the start and, when it fails, records why the VM is stopped again. When even the undo failed the VM
// stays "starting": it may still have a VMM, which stop, kill and rm -f look for again.
func (m *Manager) start(ctx context.Context, machine *machine) error {
	defer m.stateChanged()
	clean, err := perform(ctx, machine, startSteps)
	if err == nil {
		m.watch(machine.rec.ID, machine.live)
		return nil
	}
	err = fmt.Errorf("start VM %s: %w", machine.rec.Name, err)
	if !clean {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return errors.Join(err, m.Store.SetStopped(ctx, machine.rec.ID, firstLine(err), time.Now()))
}

// checkFiles verifies what the VM is booted from and prepares what it has in common with others.
func (m *machine) checkFiles(ctx context.Context) error {
	if _, err := os.Stat(m.dir.Disk()); err != nil {
		return api.Errorf(api.CodeNotFound, "the disk of VM %s is gone: %w", m.rec.Name, err).WithHint("its data is lost; remove it: banger rm %s", m.rec.Name)
	}
	if err := m.Images.Verify(ctx, m.rec.ImageID); err != nil {
		return err
	}
	if err := m.Kernels.Verify(ctx, m.rec.KernelID); err != nil {
		return err
	}
	var err error
	if m.imageUUID, err = m.Images.ForeignUUID(m.rec.ImageID); err != nil {
		return err
	}
	if m.initrd, err = m.Kernels.Initrd(ctx, m.rec.KernelID, m.GuestBinary); err != nil {
		return err
	}
	m.binary, err = m.PickVMM(ctx, m.Kernels.Vmlinux(m.rec.KernelID))
	return err
}

func (m *machine) plannedBoot() bootPlan {
	files := bootFiles{
		rootfs: m.Images.Rootfs(m.rec.ImageID), imageUUID: m.imageUUID,
		vmlinux: m.Kernels.Vmlinux(m.rec.KernelID), modules: m.Kernels.Modules(m.rec.KernelID), initrd: m.initrd,
	}
	if m.rec.Builds != "" { // its disk is a copy of the image, with a label of ours
		files.rootfs, files.imageUUID, files.inputs = "", "", m.dir.Inputs()
	}
	return planBoot(m.rec.Name, m.rec.CPUs, m.rec.MemoryMiB, m.dir, files, guestNetwork{m.tap, m.rec.Address, m.Config.Subnet})
}

func (m *machine) recordStart(ctx context.Context) error {
	defer m.stateChanged()
	return m.Store.SetStarting(ctx, m.rec.ID, m.binary)
}

// takeLock takes the lock that the VMM will inherit. That it is taken means that a VMM lives that no record knows.
func (m *machine) takeLock(context.Context) error {
	lock, err := tryLock(m.dir.Lock())
	if err != nil {
		return err
	}
	if lock == nil {
		return api.Errorf(api.CodeConflict, "another VMM still holds the lock of VM %s", m.rec.Name).WithHint("end it: banger kill %s", m.rec.Name)
	}
	m.lock = lock
	return nil
}

func (m *machine) dropLock(context.Context) error {
	if m.lock == nil {
		return nil
	}
	err := m.lock.Close()
	m.lock = nil
	return err
}

// tryLock takes an exclusive flock on path, or returns nil when somebody holds it.
func tryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return file, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = nil
	}
	return nil, errors.Join(err, file.Close())
}

// startVMM starts the program; it does not end with ctx once it serves its API, nor with the daemon.
func (m *machine) startVMM(ctx context.Context) error {
	if err := m.removeSockets(); err != nil {
		return err
	}
	if err := os.Truncate(m.dir.ConsoleLog(), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("empty console log: %w", err)
	}
	process, err := firecracker.Start(ctx, firecracker.Command{
		Enter: m.enter, Binary: m.binary, ID: m.rec.ID, APISocket: m.dir.APISocket(), LogFile: m.dir.VMMLog(), Lock: m.lock,
	})
	if err != nil {
		return err
	}
	m.vmm = firecracker.NewClient(m.dir.APISocket())
	m.live = &live{process: process, agent: guest.New(guest.DialVsock(m.dir.VsockSocket(), guest.Port))}
	m.setLive(m.live)
	if err := m.dropLock(ctx); err != nil {
		return err
	}
	return m.Store.SetVMM(ctx, m.rec.ID, process.PID(), process.StartTicks())
}

func (m *machine) setLive(l *live) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.guests[m.rec.ID] = l
}

func (m *machine) configure(ctx context.Context) error {
	plan := m.plannedBoot()
	if err := m.vmm.PutMachineConfig(ctx, plan.machine); err != nil {
		return err
	}
	if err := m.vmm.PutBootSource(ctx, plan.source); err != nil {
		return err
	}
	for _, drive := range plan.drives {
		if err := m.vmm.PutDrive(ctx, drive); err != nil {
			return err
		}
	}
	for _, nic := range plan.nics {
		if err := m.vmm.PutNetworkInterface(ctx, nic); err != nil {
			return err
		}
	}
	if err := m.vmm.PutVsock(ctx, plan.vsock); err != nil {
		return err
	}
	if err := m.vmm.PutSerial(ctx, plan.serial); err != nil {
		return err
	}
	if err := m.vmm.PutBalloon(ctx, plan.balloon); err != nil {
		return err
	}
	return m.vmm.PutEntropy(ctx, firecracker.Entropy{})
}

func (m *machine) boot(ctx context.Context) error { return m.vmm.InstanceStart(ctx) }

// waitAgent waits until the agent answers, the VMM dies or the deadline passes; then the error shows the console, and
// of a VMM that died its last words.
func (m *machine) waitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.bootTimeout,
		api.Errorf(api.CodeTimeout, "the guest's agent did not answer within %s", m.bootTimeout))
	defer cancel()
	watched, died := context.WithCancelCause(ctx)
	defer died(nil)
	process := m.live.process // the goroutine may be there still when m.live is given up
	go func() {
		select {
		case <-process.Done():
			died(errors.New("the VMM ended before the guest's agent answered"))
		case <-watched.Done():
		}
	}()
	_, err := m.live.agent.WaitReady(watched)
	if err == nil {
		return nil
	}
	if cause := context.Cause(watched); cause != nil {
		err = cause
	}
	said := quoteTail("console", m.dir.ConsoleLog())
	select {
	case <-process.Done():
		said += quoteTail("VMM log", m.dir.VMMLog())
	default:
	}
	return fmt.Errorf("%w%s", err, said)
}

// setClock gives the guest the host's time and fresh entropy: a VMM may have neither a clock nor a seed for it.
func (m *machine) setClock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	var seed [entropyBytes]byte
	rand.Read(seed[:]) // never fails, see crypto/rand
	if err := m.live.agent.AddEntropy(ctx, seed[:]); err != nil {
		return err
	}
	return m.live.agent.SetTime(ctx, time.Now())
}

func (m *machine) recordRunning(ctx context.Context) error {
	return m.Store.SetRunning(ctx, m.rec.ID, time.Now())
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

// tailOf returns at most the last n bytes of a file, and nothing when it cannot be read: it only adorns an error.
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
