package fcqemu

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"time"

	"banger/internal/qemu"
	"banger/internal/vsockmux"
)

// defaultBootArgs are Firecracker's.
const defaultBootArgs = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"

// startTimeout bounds the start of QEMU, which takes 0.1 s, and the trial boot under KVM before the
// first one.
const startTimeout = 30 * time.Second

// start is InstanceStart. v.mu is held. A failed start leaves the configuration as it was.
func (v *vmm) start() error {
	ctx, cancel := context.WithTimeout(v.ctx, startTimeout)
	defer cancel()
	if v.boot == nil {
		return errors.New("Start microvm error: Cannot start microvm without kernel configuration.")
	}
	if err := checkKernel(v.boot.kernel); err != nil {
		return fmt.Errorf("Start microvm error: Cannot load kernel due to invalid memory configuration or invalid kernel image: %w", err)
	}
	verdict, err := v.verdict(ctx)
	if err != nil {
		return fmt.Errorf("Start microvm error: %w", err)
	}
	v.log.Info(fmt.Sprintf("Running on QEMU %s, %s: %s", verdict.QEMUVersion, verdict.Accel, verdict.Why))
	port := ""
	if v.bridge != nil {
		port = vsockmux.PortName
	}
	m, err := qemu.Start(ctx, v.binary, v.plan(verdict), v.taps(), port, v.console())
	if err != nil {
		return fmt.Errorf("Start microvm error: %w", err)
	}
	if err := v.prepare(ctx, m); err != nil {
		m.Kill()
		return fmt.Errorf("Start microvm error: %w", err)
	}
	if err := m.Continue(ctx); err != nil {
		m.Kill()
		return fmt.Errorf("Start microvm error: %w", err)
	}
	if v.bridge != nil {
		session, stop := context.WithCancel(v.ctx)
		go v.bridge.keepSession(session, m.Vsock(), m.PortClosed())
		go func() {
			<-m.Done()
			stop()
		}()
	}
	for _, d := range v.drives {
		v.metrics.addDevice("block", d.config.DriveID)
	}
	for _, n := range v.nics {
		v.metrics.addDevice("net", n.config.IfaceID)
	}
	v.qemu, v.state = m, stateRunning
	close(v.running)
	// The guest runs: metrics that cannot be written are no reason to say that it does not.
	if err := v.metrics.flush(time.Now()); err != nil {
		v.log.Error("Failed to log metrics: " + err.Error())
	}
	return nil
}

// console is what QEMU's own standard streams are, which carry the console unless QEMU writes it to
// a file.
func (v *vmm) console() qemu.Stdio {
	stdio := v.stdio
	if v.serial.file != nil {
		stdio.In, stdio.Out = nil, v.serial.file
	}
	if v.serial.limit != nil {
		stdio.Out = limitedSerial{stdio.Out, v.serial, v.metrics}
	}
	return stdio
}

// verdict is the probe's, unless the environment decides.
func (v *vmm) verdict(ctx context.Context) (qemu.Verdict, error) {
	if v.accel == "auto" {
		return v.prober.Probe(ctx, held(v.boot.kernel))
	}
	return v.prober.Forced(ctx, qemu.Accel(v.accel))
}

// prepare sets what QEMU's command line cannot say, before the guest runs.
func (v *vmm) prepare(ctx context.Context, m *qemu.Machine) error {
	for i, d := range v.drives {
		if d.config.RateLimiter == nil {
			continue
		}
		if err := m.SetDriveLimits(ctx, qemuDriveID(i), limits(d.config.RateLimiter)); err != nil {
			return err
		}
	}
	if v.balloon == nil {
		return nil
	}
	if err := m.SetBalloon(ctx, int(v.machine.MemSizeMiB)-int(v.balloon.AmountMiB)); err != nil {
		return err
	}
	if v.balloon.StatsPollingIntervalS == 0 {
		return nil
	}
	return m.PollBalloon(ctx, int(v.balloon.StatsPollingIntervalS))
}

// plan is the machine as configured.
func (v *vmm) plan(verdict qemu.Verdict) qemu.Plan {
	p := qemu.Plan{
		Accel: verdict.Accel, TSCKHz: verdict.TSCKHz, VCPUs: int(v.machine.VCPUCount), SMT: v.machine.SMT,
		MemoryMiB: int(v.machine.MemSizeMiB),
		Kernel:    held(v.boot.kernel), BootArgs: v.bootArgs(),
	}
	if v.boot.initrd != nil {
		p.Initrd = held(v.boot.initrd)
	}
	if v.serial.direct() {
		p.Serial.Path = held(v.serial.file)
	}
	for i, d := range v.drives {
		p.Drives = append(p.Drives, d.plan(i))
	}
	for i, n := range v.nics {
		nic := qemu.NIC{ID: fmt.Sprint(i)}
		set(&nic.MAC, n.config.GuestMAC)
		if n.config.MTU != nil {
			nic.MTU = int(*n.config.MTU)
		}
		p.NICs = append(p.NICs, nic)
	}
	if v.entropy != nil {
		p.Entropy = &qemu.Entropy{}
		if r := v.entropy.RateLimiter; r != nil && r.Bandwidth != nil {
			p.Entropy.MaxBytes, p.Entropy.PeriodMs = int64(r.Bandwidth.Size), int64(r.Bandwidth.RefillTime)
		}
	}
	if v.balloon != nil {
		p.Balloon = &qemu.Balloon{DeflateOnOOM: v.balloon.DeflateOnOOM, FreePageReporting: v.balloon.FreePageReporting}
	}
	return p
}

func (d *driveFile) plan(index int) qemu.Drive {
	return qemu.Drive{
		ID: qemuDriveID(index), Path: held(d.file), ReadOnly: *d.config.IsReadOnly, NoFlush: d.config.CacheType == "Unsafe",
	}
}

func qemuDriveID(index int) string { return fmt.Sprint(index) }

func (v *vmm) taps() []*os.File {
	var taps []*os.File
	for _, n := range v.nics {
		taps = append(taps, n.tap)
	}
	return taps
}

// bootArgs adds the root drive, as Firecracker does.
func (v *vmm) bootArgs() string {
	args := defaultBootArgs
	set(&args, v.boot.config.BootArgs)
	if len(v.drives) == 0 || !v.drives[0].config.IsRootDevice {
		return args
	}
	root, mode := "/dev/vda", "rw"
	if uuid := v.drives[0].config.PartUUID; uuid != nil {
		root = "PARTUUID=" + *uuid
	}
	if *v.drives[0].config.IsReadOnly {
		mode = "ro"
	}
	return fmt.Sprintf("%s root=%s %s", args, root, mode)
}

// held names a file which this process has open: whatever has become of its path meanwhile, QEMU
// opens the same file.
func held(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// checkKernel looks at the ELF header. That it has a PVH entry QEMU finds out.
func checkKernel(f *os.File) error {
	image, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("Kernel Loader: not an ELF vmlinux: %w", err)
	}
	if image.Machine != elf.EM_X86_64 || image.Type != elf.ET_EXEC {
		return fmt.Errorf("Kernel Loader: a kernel for %v of type %v", image.Machine, image.Type)
	}
	return nil
}

// limits turns token buckets into rates. A bucket may be emptied at once: its size is the burst.
func limits(r *rateLimiter) qemu.Limits {
	var l qemu.Limits
	if r == nil {
		return l
	}
	if b := r.Bandwidth; b != nil {
		l.BytesPerSecond, l.BytesBurst = b.rate(), int64(b.Size)
	}
	if b := r.Ops; b != nil {
		l.OpsPerSecond, l.OpsBurst = b.rate(), int64(b.Size)
	}
	return l
}

// rate is the refill per second, at least 1: 0 would be no limit.
func (b *tokenBucket) rate() int64 {
	const most = 1e15 // QEMU's THROTTLE_VALUE_MAX
	return int64(max(1, min(most, float64(b.Size)*1000/float64(b.RefillTime))))
}
