package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/guest"
	"banger/internal/progress"
	"banger/internal/store"
)

// Build describes a throw-away VM in which an image is made. Its root is a private, writable copy
// of another image: what is done in it, also in /home and /root, becomes the new image.
type Build struct {
	ImageName                string // of the image to be
	From                     store.Image
	Kernel                   string // name or id; empty for the configured one
	CPUs, MemoryMiB, SizeMiB int    // SizeMiB is that of the root; 0 means the configured CPUs and memory
	Network                  api.Network
	Keep                     bool // leave the VM when Work fails
	// BootTimeout and StopTimeout are as Start and Stop have them.
	BootTimeout, StopTimeout time.Duration
	// MakeInputs writes the ext4 filesystem that the VM sees as a drive of its own to path.
	MakeInputs func(ctx context.Context, path string) error
	// Work provisions the VM through its agent.
	Work func(ctx context.Context, agent *guest.Client) error
	// Take takes over the finished root filesystem, read-only and without a label of its own, by
	// renaming it.
	Take func(ctx context.Context, path string) error
}

// buildFlow makes the VM of a build.
func (m *Manager) buildFlow(x *machine, b Build) flow {
	return flow{name: "build", steps: []step{
		taking("record machine", x.record),
		taking("make folder", x.folder),
		// What follows lies in the folder.
		{name: "gather inputs", do: func(ctx context.Context) error { return b.MakeInputs(ctx, x.dir.Inputs()) }},
		{name: "copy image", do: func(ctx context.Context) error { return m.copyImage(ctx, x) }},
		m.finishRecord(x),
	}}
}

// provisionFlow does the work in a VM that runs, and hands over what came of it. It is not undone:
// the VM is removed in any case.
func (m *Manager) provisionFlow(x *machine, b Build) flow {
	built := ending{reason: "built"}
	steps := []step{
		{name: "provision", do: func(ctx context.Context) error {
			return blameFullDisk(x.dir, b.Work(ctx, m.vmms.of(x.rec.ID).agent))
		}},
		{name: "shut down guest", do: func(ctx context.Context) error {
			return m.endBuilt(ctx, x, cmp.Or(b.StopTimeout, m.config.StopTimeout))
		}},
	}
	steps = append(steps, m.endSteps(x, &built)...)
	return flow{name: "provision", quiet: true, steps: append(steps,
		step{name: "shrink disk", do: func(ctx context.Context) error {
			return blameFullDisk(x.dir, finishRoot(ctx, x.dir.Disk()))
		}},
		step{name: "hand over root", do: func(ctx context.Context) error { return b.Take(ctx, x.dir.Disk()) }},
	)}
}

// Build makes the VM, has it provisioned, shuts it down cleanly, hands its root over and removes
// it. It is one operation: what else is asked of the VM meanwhile waits, or cancels it. Whatever
// happens nothing is left of the VM, unless Keep says otherwise; a VM that a dead daemon leaves is
// removed at the next start, because its record says leased and nobody holds the lease.
func (m *Manager) Build(ctx context.Context, b Build) error {
	rec, err := m.planBuild(ctx, b)
	if err != nil {
		return err
	}
	x := m.machine(rec)
	if err := x.dir.checkSocketPaths(); err != nil {
		return err
	}
	return m.operate(ctx, rec.ID, "build", 0, func(ctx context.Context) error {
		if err := m.make(ctx, x, m.buildFlow(x, b)); err != nil {
			return err
		}
		err := m.start(ctx, x, b.BootTimeout)
		if err == nil {
			_, err = m.perform(ctx, m.provisionFlow(x, b))
		}
		if err != nil && b.Keep && ctx.Err() == nil && m.vmms.of(rec.ID) != nil {
			return m.keepBuild(ctx, x, err)
		}
		return errors.Join(err, m.end(context.WithoutCancel(ctx), "remove", x, ending{remove: true}))
	})
}

// planBuild checks what is asked for and makes the record.
func (m *Manager) planBuild(ctx context.Context, b Build) (store.VM, error) {
	rec, err := m.plan(api.CreateMachine{
		CPUs: b.CPUs, MemoryMiB: b.MemoryMiB, DiskMiB: b.SizeMiB, Network: b.Network, Isolated: true, Lease: true,
	})
	if err != nil {
		return rec, err
	}
	if b.From.SizeBytes > int64(rec.DiskMiB)<<20 {
		imageMiB := (b.From.SizeBytes + 1<<20 - 1) >> 20
		return rec, api.Errorf(api.CodeInvalid, "a root of %d MiB: image %s alone has %d MiB", rec.DiskMiB, b.From.Name, imageMiB).
			WithHint("give more with --size")
	}
	kernel, err := m.kernels.Ensure(ctx, cmp.Or(b.Kernel, m.config.Kernel))
	if err != nil {
		return rec, err
	}
	rec.Builds = b.ImageName
	rec.ImageID, rec.ImageName, rec.KernelID, rec.KernelName = b.From.ID, b.From.Name, kernel.ID, kernel.Name
	return rec, nil
}

// buildName is the name of the VM that builds an image: a DNS label that reminds of it.
func buildName(image string) string {
	const most = 40
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(image))
	return strings.TrimRight("build-"+strings.Trim(name[:min(len(name), most)], "-"), "-")
}

// copyImage makes the VM's disk: the image, but writable and larger.
func (m *Manager) copyImage(ctx context.Context, x *machine) error {
	image := m.images.Rootfs(x.rec.ImageID)
	usage, err := disk.UsageOf(image)
	if err != nil {
		return err
	}
	if err := disk.RequireFree(string(x.dir), usage.AllocatedBytes+minFreeBytes); err != nil {
		return err
	}
	if err := disk.Copy(ctx, image, x.dir.Disk()); err != nil {
		return err
	}
	if err := disk.MakeWritable(ctx, x.dir.Disk(), int64(x.rec.DiskMiB)<<20); err != nil {
		return err
	}
	return disk.SetLabel(x.dir.Disk(), disk.LabelImage) // whatever the image's own was
}

// endBuilt shuts the guest down cleanly, or says that it could not: what it has not written is
// missing in the image.
func (m *Manager) endBuilt(ctx context.Context, x *machine, timeout time.Duration) error {
	if endGuest(ctx, m.vmms.of(x.rec.ID), "shut down guest", false, timeout) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("shut down the build's machine: it did not end within %s", timeout)
}

// blameFullDisk says why a guest cannot write, which itself only sees errors of its disk.
func blameFullDisk(dir Dir, err error) error {
	const little = 1 << 20
	if err == nil {
		return nil
	}
	if free, statErr := disk.FreeBytes(string(dir)); statErr != nil || free >= little {
		return err
	}
	return api.Errorf(api.CodeUnavailable, "disk full in %s: %w", dir, err).
		WithHint("free some space on that filesystem and try again")
}

func finishRoot(ctx context.Context, path string) (err error) {
	stage := progress.Start(ctx, "shrink disk")
	defer func() { stage.End(err) }()
	if err := disk.MakeReadOnly(ctx, path); err != nil {
		return err
	}
	return os.Chmod(path, 0o644) // as images are
}

// keepBuild leaves the VM of a build that failed as any other one, and says how to deal with it.
func (m *Manager) keepBuild(ctx context.Context, x *machine, err error) error {
	if leaseErr := m.store.SetLeased(ctx, x.rec.ID, false); leaseErr != nil {
		return errors.Join(err, leaseErr)
	}
	return api.Errorf(api.CodeOf(err), "%w", err).
		WithRemedy(api.OpExec.Remedy(api.Exec{Machine: x.rec.Name}, "the machine is kept; enter it")).
		WithRemedy(api.OpRemoveMachine.Remedy(api.RemoveMachine{Machine: x.rec.Name, Force: true}, "then remove it"))
}
