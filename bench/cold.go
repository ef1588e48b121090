package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/guestd/boot"
)

// measureCold compares the whole process `banger run --rm -- true` with bare QEMUs that boot the
// same kernel, initrd and drives until the agent's first byte.
func (b *bench) measureCold(ctx context.Context) (_ result, err error) {
	r := result{
		Note: "banger run --rm -q --net none -- true, whole process; a bare QEMU with the same kernel, initrd, drives until the agent's first byte",
	}
	dir, err := os.MkdirTemp("", "bc-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m, sizeMiB, err := b.coldMachine(ctx)
	if err != nil {
		return r, err
	}
	bare := func(args string) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) { return coldBare(ctx, m, args, sizeMiB, dir) }
	}
	r.Series, err = interleave(
		ctx,
		1,
		b.cold,
		bootTimeout,
		timed("banger run --rm -q --net none -- true", func(ctx context.Context) error {
			return b.banger(ctx, "run", "--rm", "-q", "--net", "none", "--", "true")
		}),
		timed(
			"banger run --rm -q -- true, with its network",
			func(ctx context.Context) error { return b.banger(ctx, "run", "--rm", "-q", "--", "true") },
		),
		contender{"bare QEMU, banger's kernel arguments", bare(m.bootArgs)},
		contender{"bare QEMU, stock kernel arguments", bare(stockArgs(m.bootArgs))},
	)
	if err != nil {
		return r, err
	}
	banger, same, stock := r.Series[0].Median, r.Series[2].Median, r.Series[3].Median
	r.Ratios = []ratio{{"median over bare QEMU", banger / same, 1.15}, {"median over bare QEMU with stock arguments", banger / stock, 1}}
	stages, err := b.coldStages(ctx)
	r.Series = append(r.Series, stages...)
	return r, err
}

// coldMachine boots one VM to see what banger gives it.
func (b *bench) coldMachine(ctx context.Context) (m machine, diskMiB int, err error) {
	vm, remove, err := b.boot(ctx, api.WaitRunning)
	if err != nil {
		return m, 0, err
	}
	m, err = machineOf(ctx, vm)
	return m, vm.DiskMiB, errors.Join(err, remove())
}

// coldBare boots a bare QEMU with a disk of its own, as new as that of a new VM. Making the disk is
// not counted: it is banger's work.
func coldBare(ctx context.Context, m machine, bootArgs string, diskMiB int, dir string) (_ time.Duration, err error) {
	fresh := filepath.Join(dir, "disk.ext4")
	if err := disk.CreateExt4(ctx, fresh, int64(diskMiB)<<20, boot.LabelDisk); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.Remove(fresh)) }()
	m.Drives = slices.Clone(m.Drives)
	for i := range m.Drives {
		if !m.Drives[i].ReadOnly {
			m.Drives[i].Path = fresh
		}
	}
	began := time.Now()
	q, err := startBare(ctx, m, m.BootSource.Initrd, bootArgs, dir)
	if err != nil {
		return 0, err
	}
	defer q.kill()
	err = q.firstByte(ctx)
	return time.Since(began), err
}

// coldStages tells where the time of a run goes: the same requests, made one by one.
func (b *bench) coldStages(ctx context.Context) ([]series, error) {
	const name = namePrefix + "stages"
	return interleave(ctx, 0, b.cold, bootTimeout,
		timed("  of it: create", func(ctx context.Context) error {
			_, err := b.client.CreateMachine(ctx, api.CreateMachine{Name: name, Network: api.NetworkNone}, nil)
			return err
		}),
		timed("  of it: start", func(ctx context.Context) error {
			_, err := b.client.StartMachine(ctx, api.StartMachine{Machine: name}, nil)
			return err
		}),
		timed("  of it: the first exec", func(ctx context.Context) error { return b.runIn(ctx, name, nil, io.Discard, truePath) }),
		timed("  of it: remove", func(ctx context.Context) error {
			return b.client.RemoveMachine(ctx, api.RemoveMachine{Machine: name, Force: true})
		}),
	)
}
