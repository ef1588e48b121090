// Package boot is the first process of a VM: it turns the initramfs, the drives and the kernel
// command line into a running system, and hands over to the image's own init.
//
// The order, each step named as it appears in errors and in the boot stages that the agent reports:
//
//  1. mount kernel file systems: /proc, /sys, /dev, /dev/pts, /dev/shm, /run
//  2. read kernel command line: keys "banger.*"
//  3. load modules: those that /modules/order lists; what the boot does not wait for loads beside it until step 8
//  4. find disks: virtio-blk drives by their ext4 label, an image that was not made by banger by its UUID
//  5. join root: image below, VM's disk above, by overlayfs; /home, /root and /var/lib/docker straight from the disk.
//     With "banger.root=own", while an image is built, the image drive is the root, writable, and there is no disk
//  6. mount kernel modules: the modules drive over the root's lib/modules
//  7. write identity: host name, hosts line, machine-id
//  8. finish modules: the network card's is among them
//  9. set up network: loopback, and the network card with the static addresses of "banger.address"
//     and "banger.address6", if there are any, and the kernel has IPv6
//  10. switch root: free the initramfs, keep this program in /run/banger
//  11. start agent: a process of its own, which outlives the hand-over
//  12. start init: exec the image's init, or stay as PID 1 when it has none
//
// A step that fails ends the boot: one line on the console, then a reset, which is the only way a
// VM ends under Firecracker. Nothing here waits without a deadline.
package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"banger/internal/guestd/smallfile"
	"banger/internal/guestd/system"
)

const (
	initramfs  = "/modules"             // what the initramfs holds beside /init
	newRoot    = "/newroot"             // where the root is joined
	diskWait   = 10 * time.Second       // for the two drives no boot can do without
	moduleWait = time.Second            // for the modules drive, once those two are there
	failPause  = 100 * time.Millisecond // lets the console's last line out before the reset
)

// Run boots the VM. It does not return: it ends in the image's init, as PID 1 itself, or in a
// reset.
func Run(ctx context.Context, log *slog.Logger) {
	if err := run(ctx, log); err != nil {
		fmt.Fprintf(os.Stderr, "banger-guest: boot stopped: %v\n", err)
	}
	timer := time.NewTimer(failPause)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	_ = system.Reset() // below is what happens when it fails
	os.Exit(1)         // the kernel panics when PID 1 ends, which panic=-1 turns into a reset
}

// state is what earlier steps leave to later ones.
type state struct {
	log     *slog.Logger
	record  system.Record
	cmdline Cmdline
	disks   Disks
	init    Init
	loading sync.WaitGroup // modules that load beside the boot
}

func run(ctx context.Context, log *slog.Logger) error {
	s := &state{log: log}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"mount kernel file systems", s.mountKernelFilesystems},
		{"read kernel command line", s.readCmdline},
		{"load modules", s.loadModules},
		{"find disks", s.findDisks},
		{"join root", s.joinRoot},
		{"mount kernel modules", s.mountModules},
		{"write identity", s.writeIdentity},
		{"finish modules", s.finishModules},
		{"set up network", s.setUpNetwork},
		{"switch root", s.switchRoot},
		{"start agent", s.startAgent},
		{"start init", s.startInit},
	}
	for _, step := range steps {
		began := system.Uptime()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		s.record.Add(step.name, began, system.Uptime())
	}
	return errors.New("start init: returned")
}

func (s *state) readCmdline(context.Context) error {
	line, err := smallfile.Read("/proc/cmdline", maxCmdlineBytes)
	if err != nil {
		return err
	}
	s.cmdline, err = ParseCmdline(string(line))
	return err
}

func (s *state) findDisks(ctx context.Context) (err error) {
	grace := moduleWait
	if s.cmdline.Modules == "none" {
		grace = 0
	}
	s.disks, err = waitDisks(ctx, "/sys/block", "/dev", s.cmdline.Image, s.cmdline.OwnRoot, diskWait, grace)
	return err
}
