// Package fcqemu is Firecracker's REST API, command line and behaviour on top of QEMU: what
// cmd/firecracker-qemu runs.
//
// It follows Firecracker 1.16: its phases (most of the configuration before InstanceStart only),
// its strict bodies, its error texts where clients match them, its log and metrics lines and its
// exit codes. Kernel, initrd, drives and taps are opened, and the vsock socket is bound, when they
// are PUT, so that errors come from the same call. What is not built answers 400 and says so.
//
// Known differences: the guest's vsock is package vsockmux on a virtio-serial port; no MMDS,
// snapshots, pmem, memory hotplug, network rate limiters, CPU templates or huge pages; a drive's
// one_time_burst is approximate; MACs are QEMU's when none is given.
package fcqemu

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"banger/internal/qemu"
)

// Version is the Firecracker release whose API this is.
const Version = "1.16.1"

// appName tells clients that ask which VMM this is.
const appName = "Firecracker"

// The states of GET /.
const (
	stateNotStarted = "Not started"
	stateRunning    = "Running"
	statePaused     = "Paused"
)

// vmm is the state machine behind the API. Its operations run one at a time, as Firecracker's do.
type vmm struct {
	ctx     context.Context // of the process: ends all goroutines
	id      string
	binary  string // QEMU
	accel   string // auto, kvm or tcg
	prober  qemu.Prober
	stdio   qemu.Stdio
	handler *logHandler
	log     *slog.Logger
	metrics *metrics
	started time.Time

	mu          sync.Mutex
	state       string
	machine     machineConfig
	boot        *bootFiles
	drives      []*driveFile
	nics        []*nicFile
	bridge      *vsockBridge
	vsockConfig *vsock
	entropy     *entropy
	balloon     *balloon
	serial      serialOutput
	logger      *loggerConfig
	metricsPath *metricsConfig
	qemu        *qemu.Machine
	running     chan struct{} // closed when qemu is set
}

type bootFiles struct {
	config         bootSource
	kernel, initrd *os.File
}

type driveFile struct {
	config drive
	file   *os.File
}

type nicFile struct {
	config networkInterface
	tap    *os.File
}

func newVMM(ctx context.Context, id string, handler *logHandler) *vmm {
	return &vmm{
		ctx: ctx, id: id, handler: handler, log: slog.New(handler), metrics: newMetrics(), started: time.Now(),
		state: stateNotStarted, machine: machineConfig{VCPUCount: 1, MemSizeMiB: 128, HugePages: "None"},
		running: make(chan struct{}),
	}
}

// preBoot is the guard of all configuration. v.mu is held.
func (v *vmm) preBoot() error {
	if v.state != stateNotStarted {
		return errPostBoot
	}
	return nil
}

// postBoot is the guard of what needs a guest. v.mu is held.
func (v *vmm) postBoot() error {
	if v.state == stateNotStarted {
		return errPreBoot
	}
	return nil
}

func (v *vmm) info() instanceInfo {
	return instanceInfo{ID: v.id, State: v.state, VMMVersion: Version, AppName: appName}
}

// fullConfig is GET /vm/config.
func (v *vmm) fullConfig() vmConfig {
	machine := v.machine
	c := vmConfig{
		Balloon: v.balloon, Entropy: v.entropy, Logger: v.logger, MachineConfig: &machine, Metrics: v.metricsPath, Vsock: v.vsockConfig,
		Drives: []drive{}, NetworkInterfaces: []networkInterface{}, PMem: []any{},
	}
	if v.boot != nil {
		c.BootSource = &v.boot.config
	}
	for _, d := range v.drives {
		c.Drives = append(c.Drives, d.config)
	}
	for _, n := range v.nics {
		c.NetworkInterfaces = append(c.NetworkInterfaces, n.config)
	}
	return c
}

// close frees what configuration took. It leaves the socket files, as Firecracker does; QEMU has
// ended or ends with this process.
func (v *vmm) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.qemu != nil {
		v.qemu.Kill()
	}
	if v.bridge != nil {
		v.bridge.close()
	}
	if v.boot != nil {
		v.boot.close()
	}
	for _, d := range v.drives {
		d.file.Close()
	}
	for _, n := range v.nics {
		n.tap.Close()
	}
	v.serial.close()
}

func (b *bootFiles) close() {
	b.kernel.Close()
	if b.initrd != nil {
		b.initrd.Close()
	}
}
