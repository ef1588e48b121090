package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/firecracker"
	"banger/internal/guest"
	"banger/internal/store"
)

// runningVMM is the VMM of one VM and the way to its guest.
type runningVMM struct {
	process *firecracker.Process
	agent   *guest.Client
}

func (r *runningVMM) alive() bool {
	select {
	case <-r.process.Done():
		return false
	default:
		return true
	}
}

// letGo forgets a VMM, which goes on if it lives.
func (r *runningVMM) letGo() error {
	r.process.Release()
	return r.agent.Close()
}

// runningVMMs are those that this daemon knows. It is safe for concurrent use.
type runningVMMs struct {
	mu   sync.Mutex
	byID map[string]*runningVMM // by VM id
}

// of returns a VM's VMM, or nil.
func (k *runningVMMs) of(id string) *runningVMM {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byID[id]
}

// add notes a process that runs a VM.
func (k *runningVMMs) add(id string, dir Dir, process *firecracker.Process) *runningVMM {
	r := &runningVMM{process: process, agent: guest.New(guest.DialVsock(dir.VsockSocket(), guest.Port))}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byID[id] = r
	return r
}

// remove forgets a VM's VMM and returns it, or nil.
func (k *runningVMMs) remove(id string) *runningVMM {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.byID[id]
	delete(k.byID, id)
	return r
}

// close lets go of all; they go on running.
func (k *runningVMMs) close() error {
	k.mu.Lock()
	all := k.byID
	k.byID = map[string]*runningVMM{}
	k.mu.Unlock()
	var errs []error
	for _, r := range all {
		errs = append(errs, r.letGo())
	}
	return errors.Join(errs...)
}

// lock is the lock in the VM's folder until the VMM has inherited it: from then on the VMM holds
// it, for its whole life.
type lock struct {
	rec  *store.VM
	dir  Dir
	file *os.File // nil when it is not ours
}

func (l *lock) name() string { return "lock" }
func (l *lock) uses() bool   { return false }

// take takes the lock that the VMM will inherit. That it is taken means that a VMM lives that no
// record knows.
func (l *lock) take(context.Context) error {
	file, err := tryLock(l.dir.Lock())
	if err != nil {
		return err
	}
	if file == nil {
		return api.Errorf(api.CodeConflict, "another VMM still holds the lock of machine %s", l.rec.Name).
			WithRemedy(api.OpKillMachine.Remedy(api.KillMachine{Machine: l.rec.Name}, "end it"))
	}
	l.file = file
	return nil
}

func (l *lock) give(context.Context) error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
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

// vmm is the process that runs the VM, and its sockets.
type vmm struct {
	rec   *store.VM
	dir   Dir
	store *store.Store
	known *runningVMMs
	lock  *lock
	port  *networkPort

	binary string // the program to start
}

func (v *vmm) name() string { return "VMM" }
func (v *vmm) uses() bool   { return true }

// take starts the program; it does not end with ctx once it serves its API, nor with the daemon.
func (v *vmm) take(ctx context.Context) error {
	if err := v.removeSockets(); err != nil {
		return err
	}
	if err := os.Truncate(v.dir.ConsoleLog(), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("empty console log: %w", err)
	}
	process, err := firecracker.Start(ctx, firecracker.Command{
		Enter: v.port.enter, Binary: v.binary, ID: v.rec.ID,
		APISocket: v.dir.APISocket(), LogFile: v.dir.VMMLog(), Lock: v.lock.file,
	})
	if err != nil {
		return err
	}
	v.known.add(v.rec.ID, v.dir, process)
	if err := v.lock.give(ctx); err != nil { // the VMM has it now
		return err
	}
	return v.store.SetVMM(ctx, v.rec.ID, process.PID(), process.StartTicks())
}

// give ends whatever holds the VM's lock and removes what it leaves behind. The VMM is the one this
// daemon knows, or the one that the record names, or the one that listens at the API socket. Its
// own children inherit the lock and may outlive it for moments, so the VMM is only gone when the
// lock is free.
func (v *vmm) give(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	tick := time.NewTicker(lockInterval)
	defer tick.Stop()
	for {
		process, free, err := v.find()
		if err != nil {
			return err
		}
		if free {
			return v.removeSockets()
		}
		if process != nil {
			if err := v.end(ctx, process); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("something still holds %s, which machine %s ran under", v.dir.Lock(), v.rec.Name)
		}
	}
}

// end kills a process that find returned. One that cannot be ended stays known.
func (v *vmm) end(ctx context.Context, process *firecracker.Process) error {
	known := v.known.of(v.rec.ID)
	if known == nil {
		defer process.Release()
	}
	if err := kill(ctx, process); err != nil || known == nil {
		return err
	}
	v.known.remove(v.rec.ID)
	_ = known.letGo() // the connection to the guest broke with the VMM
	return nil
}

// find returns the process that runs the VM, if it can be found, and reports whether the lock says
// that there is none.
func (v *vmm) find() (process *firecracker.Process, free bool, err error) {
	if known := v.known.of(v.rec.ID); known != nil {
		return known.process, false, nil
	}
	if v.lock.file != nil {
		return nil, true, nil // a start that failed before its VMM had inherited the lock
	}
	file, err := tryLock(v.dir.Lock())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil // the folder is gone
	}
	if err != nil {
		return nil, false, err
	}
	if file != nil {
		return nil, true, file.Close()
	}
	return attach(v.rec.VMMPID, v.rec.VMMStartTicks, v.dir), false, nil
}

// attach finds the process that holds a VM's lock: the recorded one, or, when the daemon died
// before it could record it, the one that listens at the API socket. It returns nil when there is
// neither: the VMM is about to be gone.
func attach(pid int, startTicks uint64, dir Dir) *firecracker.Process {
	if pid != 0 {
		if process, err := firecracker.Attach(pid, startTicks); err == nil {
			return process
		}
	}
	if process, err := firecracker.AttachSocket(dir.APISocket()); err == nil {
		return process
	}
	return nil
}

// kill ends a process and waits until it is gone.
func kill(ctx context.Context, process *firecracker.Process) error {
	if err := process.Kill(); err != nil {
		return fmt.Errorf("kill VMM: %w", err)
	}
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	select {
	case <-process.Done():
		return nil
	case <-timer.C:
		return fmt.Errorf("VMM %d is not gone %s after it was killed", process.PID(), killTimeout)
	case <-ctx.Done():
		return fmt.Errorf("kill VMM: %w", ctx.Err())
	}
}

func (v *vmm) removeSockets() error {
	if err := errors.Join(removeFile(v.dir.APISocket()), removeFile(v.dir.VsockSocket())); err != nil {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}
