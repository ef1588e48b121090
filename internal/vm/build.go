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

// Build describes a throw-away VM in which an image is made. Its root is a private, writable copy of another image: what
// is done in it, also in /home and /root, becomes the new image.
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
	// Take takes over the finished root filesystem, read-only and without a label of its own, by renaming it.
	Take func(ctx context.Context, path string) error
}

// buildSteps make the VM of a build. Removing it undoes them, as it does for any VM.
var buildSteps = []step{
	{"record VM", (*machine).insertRecord, (*machine).deleteRecord},
	{"make folder", (*machine).makeFolder, (*machine).removeFolder},
	{"gather inputs", (*machine).makeInputs, nil}, // what follows lies in the folder
	{"copy image", (*machine).copyImage, nil},
	{"finish record", (*machine).finishRecord, nil},
}

// Build makes the VM, has it provisioned, shuts it down cleanly, hands its root over and removes it. It is one operation:
// what else is asked of the VM meanwhile waits, or cancels it. Whatever happens nothing is left of the VM, unless Keep
// says otherwise; a VM that a dead daemon leaves is removed at the next start, because its record says leased and nobody
// holds the lease.
func (m *Manager) Build(ctx context.Context, b Build) error {
	rec, err := m.planBuild(ctx, b)
	if err != nil {
		return err
	}
	machine := m.machine(rec)
	machine.build, machine.bootTimeout = &b, cmp.Or(b.BootTimeout, m.Config.BootTimeout)
	if err := machine.dir.checkSocketPaths(); err != nil {
		return err
	}
	return m.operate(ctx, rec.ID, "build", 0, func(ctx context.Context) error {
		defer m.stateChanged()
		if _, err := perform(ctx, machine, buildSteps); err != nil {
			return err
		}
		err := m.build(ctx, machine)
		if err != nil && b.Keep && ctx.Err() == nil && m.liveOf(rec.ID) != nil {
			return m.keepBuild(ctx, machine, err)
		}
		return errors.Join(err, m.tearDown(ctx, machine))
	})
}

// planBuild checks what is asked for and makes the record.
func (m *Manager) planBuild(ctx context.Context, b Build) (store.VM, error) {
	rec, err := m.plan(api.CreateVM{CPUs: b.CPUs, MemoryMiB: b.MemoryMiB, DiskMiB: b.SizeMiB, Network: b.Network, Isolated: true, Lease: true})
	if err != nil {
		return rec, err
	}
	if b.From.SizeBytes > int64(rec.DiskMiB)<<20 {
		return rec, api.Errorf(api.CodeInvalid, "a root of %d MiB: image %s alone has %d MiB", rec.DiskMiB, b.From.Name, (b.From.SizeBytes+1<<20-1)>>20).
			WithHint("give more with --size")
	}
	kernel, err := m.Kernels.Ensure(ctx, orDefault(b.Kernel, m.Config.Kernel))
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

func (m *machine) makeInputs(ctx context.Context) error {
	return m.build.MakeInputs(ctx, m.dir.Inputs())
}

// copyImage makes the VM's disk: the image, but writable and larger.
func (m *machine) copyImage(ctx context.Context) error {
	image := m.Images.Rootfs(m.rec.ImageID)
	usage, err := disk.UsageOf(image)
	if err != nil {
		return err
	}
	if err := disk.RequireFree(string(m.dir), usage.AllocatedBytes+minFreeBytes); err != nil {
		return err
	}
	if err := disk.Copy(ctx, image, m.dir.Disk()); err != nil {
		return err
	}
	if err := disk.MakeWritable(ctx, m.dir.Disk(), int64(m.rec.DiskMiB)<<20); err != nil {
		return err
	}
	return disk.SetLabel(m.dir.Disk(), disk.LabelImage) // whatever the image's own was
}

// build does the work in a VM that was made, and hands over what came of it.
func (m *Manager) build(ctx context.Context, machine *machine) error {
	if err := m.start(ctx, machine); err != nil {
		return err
	}
	l := machine.live
	if err := machine.build.Work(ctx, l.agent); err != nil {
		return blameFullDisk(string(machine.dir), err)
	}
	timeout := cmp.Or(machine.build.StopTimeout, m.Config.StopTimeout)
	if !endGuest(ctx, l, "shut down guest", false, timeout) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("shut down the build's VM: it did not end within %s", timeout)
	}
	if err := m.tearDownRun(ctx, machine, "built"); err != nil {
		return err
	}
	if err := finishRoot(ctx, machine.dir.Disk()); err != nil {
		return blameFullDisk(string(machine.dir), err)
	}
	return machine.build.Take(ctx, machine.dir.Disk())
}

// blameFullDisk says why a guest cannot write, which itself only sees errors of its disk.
func blameFullDisk(dir string, err error) error {
	const little = 1 << 20
	if free, statErr := disk.FreeBytes(dir); statErr != nil || free >= little {
		return err
	}
	return api.Errorf(api.CodeUnavailable, "disk full in %s: %w", dir, err).WithHint("free some space on that filesystem and try again")
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
func (m *Manager) keepBuild(ctx context.Context, machine *machine, err error) error {
	if leaseErr := m.Store.SetLeased(ctx, machine.rec.ID, false); leaseErr != nil {
		return errors.Join(err, leaseErr)
	}
	return api.Errorf(api.CodeOf(err), "%w", err).
		WithHint("the machine is kept; enter it: banger shell %s; then remove it: banger rm -f %s", machine.rec.Name, machine.rec.Name)
}
