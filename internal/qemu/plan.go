// Package qemu runs one microVM under QEMU: the command line as a plan ([Plan.Args]), the process
// ([Start]), its monitor ([Monitor]) and the question whether KVM works here ([Probe]).
//
// The machine is `-M microvm` with what a guest finds under Firecracker: ACPI, virtio-mmio, one
// serial console, an i8042 for Ctrl-Alt-Del and reboot=k. The kernel is an ELF vmlinux, entered by
// PVH. Package fcqemu puts Firecracker's API in front of it.
package qemu

import (
	"fmt"
	"strings"
)

// Accel is what executes the guest's instructions.
type Accel string

const (
	// KVM is hardware virtualization.
	KVM Accel = "kvm"
	// TCG is QEMU's own translation: slow, and works everywhere.
	TCG Accel = "tcg"
)

// MaxDevices is how many virtio-mmio devices microvm has places for, with its second IOAPIC.
const MaxDevices = 24

// devicesWithoutIOAPIC2 is how many it has places for with one.
const devicesWithoutIOAPIC2 = 8

// A Plan says what a machine consists of. Fields that hold file descriptors number them as QEMU
// sees them, see [Start].
type Plan struct {
	Accel     Accel
	TSCKHz    int // rate of the host's TSC, used under TCG only
	VCPUs     int
	SMT       bool // two vCPUs are one core
	MemoryMiB int
	Kernel    string // ELF vmlinux
	Initrd    string // none if empty
	BootArgs  string
	MonitorFD int // stream socket for QMP
	VsockFD   int // stream socket behind the port vsockmux.PortName; 0 for none
	Serial    Serial
	Drives    []Drive // in the order in which the guest sees them
	NICs      []NIC
	Entropy   *Entropy
	Balloon   *Balloon
	Port      string // name of the virtio-serial port
}

// Serial is where the console goes.
type Serial struct {
	Path string // appended to; if empty the console is QEMU's stdin and stdout
}

// A Drive is a raw disk image or block device.
type Drive struct {
	ID       string // QEMU's id of the device, unique, [A-Za-z0-9_]
	Path     string
	ReadOnly bool
	NoFlush  bool // the guest's flushes do not reach the host's disk
}

// A NIC is a network card on an open tap device.
type NIC struct {
	ID  string // QEMU's id, as Drive.ID
	FD  int
	MAC string // QEMU's choice if empty
	MTU int    // not told to the guest if 0
}

// Entropy is a virtio random device. It gives the guest MaxBytes per PeriodMs, without limit if
// either is 0.
type Entropy struct{ MaxBytes, PeriodMs int64 }

// Balloon is a virtio memory balloon. Its target is set with [Machine.SetBalloon].
type Balloon struct {
	DeflateOnOOM      bool
	FreePageReporting bool
}

// Args returns QEMU's arguments. The machine is created stopped: it waits for the monitor's cont.
func (p Plan) Args() ([]string, error) {
	devices := p.devices()
	if n := p.transports(); n > MaxDevices {
		return nil, fmt.Errorf("%d virtio devices: QEMU's microvm has places for %d", n, MaxDevices)
	}
	args := []string{
		"-M", p.machine(), "-cpu", p.cpu(), "-smp", p.smp(),
		"-m", fmt.Sprintf("%dM", p.MemoryMiB),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", p.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", p.Kernel, "-append", p.append(),
	}
	if p.Initrd != "" {
		args = append(args, "-initrd", p.Initrd)
	}
	if p.MonitorFD != 0 {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", p.MonitorFD), "-mon", "chardev=monitor,mode=control")
	}
	args = append(args, "-chardev", p.Serial.chardev(), "-serial", "chardev:serial", "-device", "i8042")
	return append(args, devices...), nil
}

// machine leaves PIT and PIC out. The ACPI tables say hardware-reduced, so that Linux does not
// program the PIC; where PIT and PIC are there all the same the firmware's timer may be pending
// when Linux first enables interrupts, and arrives as vector 0, a divide error: 14 of 46 boots died
// of it. The clock they would calibrate is known from tsc_early_khz, or kvmclock.
func (p Plan) machine() string {
	ioapic2 := "off"
	if p.transports() > devicesWithoutIOAPIC2 {
		ioapic2 = "on"
	}
	return fmt.Sprintf("microvm,accel=%s,acpi=on,rtc=on,pit=off,pic=off,ioapic2=%s,memory-backend=ram", p.Accel, ioapic2)
}

func (p Plan) smp() string {
	if p.SMT && p.VCPUs > 1 {
		return fmt.Sprintf("%d,threads=2", p.VCPUs)
	}
	return fmt.Sprint(p.VCPUs)
}

func (p Plan) cpu() string {
	if p.Accel == KVM {
		return "host"
	}
	// Without its two "fast string" features a guest copies by words: TCG performs rep movsb byte
	// by byte.
	return "max,-erms,-fsrm"
}

// append adds what TCG needs: the guest's TSC runs at the host's rate, but calibrating it against
// microvm's PIT hangs in 6 of 15 boots.
func (p Plan) append() string {
	if p.Accel == KVM {
		return p.BootArgs
	}
	return strings.TrimSpace(fmt.Sprintf("%s tsc_early_khz=%d tsc=reliable", p.BootArgs, p.TSCKHz))
}

func (p Plan) transports() int {
	n := len(p.Drives) + len(p.NICs)
	for _, has := range []bool{p.VsockFD != 0, p.Entropy != nil, p.Balloon != nil} {
		if has {
			n++
		}
	}
	return n
}

func (p Plan) devices() []string {
	var args []string
	for _, d := range p.Drives {
		args = append(args, d.args()...)
	}
	for _, n := range p.NICs {
		args = append(args, n.args()...)
	}
	if p.VsockFD != 0 {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", p.VsockFD),
			"-device", "virtio-serial-device,id=ports",
			"-device", "virtserialport,bus=ports.0,chardev=vsock,id=vsockport,name="+escape(p.Port))
	}
	if p.Entropy != nil {
		limit := ""
		if p.Entropy.MaxBytes > 0 && p.Entropy.PeriodMs > 0 {
			limit = fmt.Sprintf(",max-bytes=%d,period=%d", p.Entropy.MaxBytes, p.Entropy.PeriodMs)
		}
		args = append(args, "-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng"+limit)
	}
	if b := p.Balloon; b != nil {
		args = append(args, "-device", fmt.Sprintf("virtio-balloon-device,id=%s,deflate-on-oom=%s,free-page-reporting=%s",
			balloonID, onOff(b.DeflateOnOOM), onOff(b.FreePageReporting)))
	}
	return args
}

func (s Serial) chardev() string {
	if s.Path != "" {
		return "file,id=serial,append=on,path=" + escape(s.Path)
	}
	return "stdio,id=serial,signal=off"
}

// nodeName names the block node that the device of drive id is attached to; the file under it can
// be exchanged.
func nodeName(id string) string { return "node-" + id }

// fileNode names the file under a drive's node. Each exchange takes a new one.
func fileNode(id string, generation int) string { return fmt.Sprintf("file-%s-%d", id, generation) }

// args leaves file locks out: Firecracker takes none, and a drive may be exchanged for the file it
// already has.
func (d Drive) args() []string {
	return []string{
		"-blockdev", fmt.Sprintf("driver=file,node-name=%s,filename=%s,read-only=%s,cache.no-flush=%s,locking=off",
			fileNode(d.ID, 0), escape(d.Path), onOff(d.ReadOnly), onOff(d.NoFlush)),
		"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,file=%s,read-only=%s",
			nodeName(d.ID), fileNode(d.ID, 0), onOff(d.ReadOnly)),
		"-device", fmt.Sprintf("virtio-blk-device,id=%s,drive=%s,werror=report,rerror=report",
			deviceID(d.ID), nodeName(d.ID)),
	}
}

func deviceID(drive string) string { return "drive-" + drive }

func (n NIC) args() []string {
	device := fmt.Sprintf("virtio-net-device,id=nic-%s,netdev=net-%s", n.ID, n.ID)
	if n.MAC != "" {
		device += ",mac=" + n.MAC
	}
	if n.MTU != 0 {
		device += fmt.Sprintf(",host_mtu=%d", n.MTU)
	}
	return []string{"-netdev", fmt.Sprintf("tap,id=net-%s,fd=%d", n.ID, n.FD), "-device", device}
}

// escape protects a value in QEMU's key=value lists, where a comma is written twice.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
