package fcqemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"banger/internal/qemu"
)

// The handlers of what needs a guest. v.mu is held in all of them.

// commandTimeout bounds a command to QEMU, which takes a millisecond.
const commandTimeout = 10 * time.Second

var (
	errNoBalloon    = errors.New("Balloon config error: No balloon device found.")
	errTooManyPages = errors.New("Balloon config error: Amount of pages requested is too large.")
	errNoStats      = errors.New("Balloon config error: Statistics for the balloon device are not enabled")
)

func (v *vmm) command() (context.Context, context.CancelFunc) {
	return context.WithTimeout(v.ctx, commandTimeout)
}

func (v *vmm) setState(s vmStateName) error {
	ctx, cancel := v.command()
	defer cancel()
	began := time.Now()
	operation, change, state := "pause_vm", v.qemu.Pause, statePaused
	if s == "Resumed" {
		operation, change, state = "resume_vm", v.qemu.Continue, stateRunning
	}
	if err := change(ctx); err != nil {
		return fmt.Errorf("Internal VMM error: %w", err)
	}
	v.state = state
	v.metrics.latency(operation, time.Since(began))
	return nil
}

func (v *vmm) sendCtrlAltDel() error {
	ctx, cancel := v.command()
	defer cancel()
	if err := v.qemu.CtrlAltDel(ctx); err != nil {
		return fmt.Errorf("Internal VMM error: %w", err)
	}
	return nil
}

func (v *vmm) patchDrive(p drivePatch) error {
	at := slices.IndexFunc(v.drives, func(d *driveFile) bool { return d.config.DriveID == p.DriveID })
	if at < 0 {
		return fmt.Errorf("Drive config error: Unable to patch the block device: no drive with the id %s", p.DriveID)
	}
	if p.PathOnHost == nil && p.RateLimiter == nil {
		return errors.New("Drive config error: Unable to patch the block device: Running method expected different backend.")
	}
	ctx, cancel := v.command()
	defer cancel()
	d := v.drives[at]
	if p.PathOnHost != nil {
		if err := v.replaceDrive(ctx, at, *p.PathOnHost); err != nil {
			return fmt.Errorf("Drive config error: Unable to patch the block device: Virtio backend error: %w", err)
		}
	}
	if p.RateLimiter == nil {
		return nil
	}
	changed := d.config.RateLimiter.patched(p.RateLimiter)
	if err := v.qemu.SetDriveLimits(ctx, qemuDriveID(at), limits(changed)); err != nil {
		return fmt.Errorf("Drive config error: Unable to patch the block device: %w", err)
	}
	d.config.RateLimiter = changed
	return nil
}

// replaceDrive keeps the old file when QEMU does.
func (v *vmm) replaceDrive(ctx context.Context, at int, path string) error {
	d := v.drives[at]
	file, err := openDrive(path, *d.config.IsReadOnly)
	if err != nil {
		return err
	}
	// Block devices have no size in their inode.
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		file.Close()
		return err
	}
	changed := &driveFile{config: d.config, file: file}
	if err := v.qemu.ReplaceDrive(ctx, changed.plan(at), size); err != nil {
		file.Close()
		return err
	}
	d.file.Close()
	d.file, d.config.PathOnHost = file, &path
	return nil
}

// patched takes over the buckets that p names; one that limits nothing removes the limit.
func (r *rateLimiter) patched(p *rateLimiter) *rateLimiter {
	var n rateLimiter
	if r != nil {
		n = *r
	}
	if p.Bandwidth != nil {
		n.Bandwidth = p.Bandwidth
	}
	if p.Ops != nil {
		n.Ops = p.Ops
	}
	return n.normal()
}

func (v *vmm) patchBalloon(p balloonPatch) error {
	if v.balloon == nil {
		return errNoBalloon
	}
	if uint64(p.AmountMiB) > v.machine.MemSizeMiB {
		return errTooManyPages
	}
	ctx, cancel := v.command()
	defer cancel()
	if err := v.qemu.SetBalloon(ctx, int(v.machine.MemSizeMiB)-int(p.AmountMiB)); err != nil {
		return fmt.Errorf("Balloon config error: %w", err)
	}
	v.balloon.AmountMiB = p.AmountMiB
	return nil
}

func (v *vmm) patchBalloonStats(p balloonStatsPatch) error {
	if v.balloon == nil {
		return errNoBalloon
	}
	if (p.StatsPollingIntervalS == 0) != (v.balloon.StatsPollingIntervalS == 0) {
		return errors.New("Balloon config error: Cannot enable/disable the statistics after boot.")
	}
	if p.StatsPollingIntervalS == 0 {
		return nil
	}
	ctx, cancel := v.command()
	defer cancel()
	if err := v.qemu.PollBalloon(ctx, int(p.StatsPollingIntervalS)); err != nil {
		return fmt.Errorf("Balloon config error: %w", err)
	}
	v.balloon.StatsPollingIntervalS = p.StatsPollingIntervalS
	return nil
}

// statNames are QEMU's and Firecracker's names of the same statistics.
var statNames = map[string]string{
	"stat-swap-in": "swap_in", "stat-swap-out": "swap_out", "stat-major-faults": "major_faults", "stat-minor-faults": "minor_faults",
	"stat-free-memory": "free_memory", "stat-total-memory": "total_memory", "stat-available-memory": "available_memory",
	"stat-disk-caches": "disk_caches", "stat-htlb-pgalloc": "hugetlb_allocations", "stat-htlb-pgfail": "hugetlb_failures",
	"stat-oom-kill": "oom_kill", "stat-alloc-stall": "alloc_stall", "stat-async-scan": "async_scan", "stat-direct-scan": "direct_scan",
	"stat-async-reclaim": "async_reclaim", "stat-direct-reclaim": "direct_reclaim",
}

// balloonStats is GET /balloon/statistics. What the guest has not told is absent.
func (v *vmm) balloonStats() (map[string]int64, error) {
	if v.balloon == nil {
		return nil, errNoBalloon
	}
	if v.balloon.StatsPollingIntervalS == 0 {
		return nil, errNoStats
	}
	ctx, cancel := v.command()
	defer cancel()
	remaining, err := v.qemu.BalloonRemaining(ctx)
	if err != nil {
		return nil, fmt.Errorf("Balloon config error: %w", err)
	}
	told, err := v.qemu.BalloonStats(ctx)
	if err != nil {
		return nil, fmt.Errorf("Balloon config error: %w", err)
	}
	return describeBalloon(int64(v.balloon.AmountMiB), int64(v.machine.MemSizeMiB), remaining, told), nil
}

func describeBalloon(targetMiB, memoryMiB, remaining int64, told qemu.BalloonStats) map[string]int64 {
	const pagesPerMiB = 256
	actual := memoryMiB - remaining>>20
	stats := map[string]int64{
		"target_mib": targetMiB, "target_pages": targetMiB * pagesPerMiB, "actual_mib": actual, "actual_pages": actual * pagesPerMiB,
	}
	for theirs, ours := range statNames {
		if value, ok := told[theirs]; ok {
			stats[ours] = value
		}
	}
	return stats
}
