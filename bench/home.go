package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
	homefolder "banger/internal/home"
)

const (
	// commandTimeout bounds one command of banger; the first makes image and kernel.
	commandTimeout = 10 * time.Minute
	bootTimeout    = 3 * time.Minute
	idleTimeout    = 2 * time.Minute
	removeTimeout  = time.Minute
)

// namePrefix begins the names of all VMs made here, but for those of `banger run`, which go with
// their command.
const namePrefix = "bench-"

// home is a banger home folder with its daemon.
type home struct {
	dir, bin  string
	temporary bool
	client    *api.Client
}

// openHome uses a folder, or makes one when dir is empty. Its daemon starts with the first command.
func openHome(dir, bin string) (*home, error) {
	h := &home{dir: dir, temporary: dir == ""}
	var err error
	if h.bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(h.bin, "banger")); err != nil {
		return nil, fmt.Errorf("find banger (make build makes it): %w", err)
	}
	if h.temporary {
		h.dir, err = os.MkdirTemp("", "bb-") // short: sockets lie in it
	} else {
		h.dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open home folder: %w", err)
	}
	h.client = api.NewClient(h.folder().Socket())
	return h, nil
}

// close removes the VMs that a section could not, stops the daemon, and removes a folder that
// openHome made. It does so also when ctx has ended.
func (h *home) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	err := errors.Join(h.removeAll(ctx), h.banger(ctx, "daemon", "stop"))
	h.client.CloseIdle()
	if h.temporary && err == nil { // else something may still run in it
		err = os.RemoveAll(h.dir)
	}
	return err
}

func (h *home) removeAll(ctx context.Context) error {
	if err := h.banger(ctx, "ls"); err != nil { // starts the daemon
		return err
	}
	vms, err := h.client.Machines(ctx)
	for _, vm := range vms {
		if strings.HasPrefix(vm.Name, namePrefix) {
			err = errors.Join(err, h.remove(ctx, vm.ID))
		}
	}
	return err
}

// folder knows what lies where in the home.
func (h *home) folder() homefolder.Dir { return homefolder.Dir(h.dir) }

// restartDaemon gives a fresh daemon. What between needs the home to itself is done between the
// two.
func (h *home) restartDaemon(ctx context.Context, between func() error) error {
	if err := h.banger(ctx, "daemon", "stop"); err != nil {
		return err
	}
	h.client.CloseIdle() // connections to the daemon that has ended
	if err := between(); err != nil {
		return err
	}
	return h.banger(ctx, "ls")
}

// banger runs a command, which must succeed.
func (h *home) banger(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(h.bin, "banger"), args...)
	command.Env = append(os.Environ(), "BANGER_HOME="+h.dir, "BANGER_VMM=firecracker-qemu")
	command.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	command.Stderr = &stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("banger %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// boot starts a new VM without a network.
func (h *home) boot(ctx context.Context, condition api.WaitFor) (vm api.Machine, remove func() error, err error) {
	return h.bootAs(ctx, api.CreateMachine{Network: api.NetworkNone}, condition)
}

// bootAs starts a new VM, makes the image and the kernel where they are missing, and waits for the
// condition. remove ends it, also when ctx has ended.
func (h *home) bootAs(ctx context.Context, want api.CreateMachine, condition api.WaitFor) (vm api.Machine, remove func() error, err error) {
	want.Name = namePrefix + "vm"
	if err := h.banger(ctx, "ls"); err != nil { // starts the daemon
		return api.Machine{}, nil, err
	}
	create, cancelCreate := context.WithTimeout(ctx, commandTimeout)
	defer cancelCreate()
	if vm, err = h.client.CreateMachine(create, want, nil); err != nil {
		return api.Machine{}, nil, err
	}
	remove = func() error { return h.remove(ctx, vm.ID) }
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	_, err = h.client.StartMachine(ctx, api.StartMachine{Machine: vm.ID}, nil)
	if err == nil {
		vm, err = h.client.WaitMachine(ctx, api.WaitMachine{Machine: vm.ID, For: condition})
	}
	if err != nil {
		return api.Machine{}, nil, errors.Join(err, h.remove(ctx, vm.ID))
	}
	return vm, remove, nil
}

func (h *home) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	return h.client.RemoveMachine(ctx, api.RemoveMachine{Machine: id, Force: true})
}

// waitIdle returns when a VM's CPUs were busy for less than a twentieth of two seconds: systemd
// calls a boot finished while services still settle.
func (h *home) waitIdle(ctx context.Context, id string) error {
	const interval, busy = 2 * time.Second, 100 // milliseconds
	ctx, cancel := context.WithTimeoutCause(ctx, idleTimeout, errors.New("the machine does not come to rest"))
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	before := int64(-1)
	for {
		stats, err := h.client.StatsMachine(ctx, id)
		if err != nil {
			return err
		}
		if before >= 0 && stats.GuestCPUMS-before < busy {
			return nil
		}
		before = stats.GuestCPUMS
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
