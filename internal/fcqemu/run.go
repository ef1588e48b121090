package fcqemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"banger/internal/qemu"
)

// Firecracker's exit codes.
const (
	exitOK        = 0
	exitGeneric   = 1
	exitBadConfig = 152
	exitArguments = 153
)

// maxConfigFile bounds the file of --config-file.
const maxConfigFile = 1 << 20

// Process is what a run takes from its surroundings.
type Process struct {
	Args   []string // without the program's name
	Getenv func(string) string
	Stdin  *os.File // console input of the guest; nil for none
	Stdout io.Writer
	Stderr io.Writer
}

// Run is the whole program: it ends with the guest, or with ctx, and returns the exit code.
func Run(ctx context.Context, p Process) int {
	o, err := parseArgs(p.Args)
	if err != nil {
		fmt.Fprintf(p.Stderr, "Arguments parsing error: %v\n\nFor more information try --help.\n", err)
		return exitArguments
	}
	switch {
	case o.help:
		fmt.Fprint(p.Stdout, usage)
		return exitOK
	case o.version:
		fmt.Fprintf(p.Stdout, "Firecracker v%s\n\n", Version)
		return exitOK
	case o.snapshotVersion, o.describeSnapshot != "":
		fmt.Fprintln(p.Stderr, "firecracker-qemu does not support snapshots.")
		return exitGeneric
	case o.probing:
		return p.probe(ctx, o.probe)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v := newVMM(ctx, o.id, newLogHandler(o.id, p.Stdout))
	defer v.close()
	if code, err := p.configure(v, o); err != nil {
		fmt.Fprintln(p.Stderr, err)
		return v.failed(code, err)
	}
	return v.run(ctx, o)
}

// configure applies environment and options to v. It returns the exit code that an error comes to.
func (p Process) configure(v *vmm, o options) (int, error) {
	v.stdio = qemu.Stdio{Out: p.Stdout}
	if p.Stdin != nil {
		v.stdio.In = p.Stdin
	}
	v.prober = p.prober()
	v.binary = v.prober.Binary
	switch v.accel = p.Getenv("FIRECRACKER_QEMU_ACCEL"); v.accel {
	case "":
		v.accel = "auto"
	case "auto", string(qemu.KVM), string(qemu.TCG):
	default:
		return exitArguments, fmt.Errorf("FIRECRACKER_QEMU_ACCEL is %.50q: it must be auto, kvm or tcg", v.accel)
	}
	if o.logger.Level != nil {
		if _, err := parseLevel(*o.logger.Level); err != nil {
			return exitBadConfig, fmt.Errorf(
				"Invalid value for logger level: %.50s.Possible values: [Error, Warning, Info, Debug]",
				*o.logger.Level,
			)
		}
	}
	if o.logger != (loggerConfig{}) {
		if err := v.putLogger(o.logger); err != nil {
			return exitGeneric, fmt.Errorf("Could not initialize logger: %w", err)
		}
	}
	if o.metricsPath != "" {
		if err := v.putMetrics(metricsConfig{MetricsPath: o.metricsPath}); err != nil {
			return exitGeneric, fmt.Errorf("Could not initialize metrics: %w", err)
		}
	}
	return exitOK, nil
}

// failed logs why the program ends, as Firecracker does, and returns code.
func (v *vmm) failed(code int, err error) int {
	v.log.Error(err.Error())
	v.log.Error(fmt.Sprintf("Firecracker exiting with error. exit_code=%d", code))
	return code
}

func (p Process) prober() qemu.Prober {
	binary, cache := p.Getenv("FIRECRACKER_QEMU_BINARY"), p.Getenv("XDG_CACHE_HOME")
	if binary == "" {
		binary = qemu.DefaultBinary
	}
	if home := p.Getenv("HOME"); cache == "" && home != "" {
		cache = filepath.Join(home, ".cache")
	}
	if cache == "" {
		cache = os.TempDir()
	}
	return qemu.Prober{Binary: binary, CacheDir: filepath.Join(cache, "firecracker-qemu")}
}

// probe is --probe-accel.
func (p Process) probe(ctx context.Context, kernel string) int {
	prober := p.prober()
	var verdict qemu.Verdict
	var err error
	if kernel == "" {
		verdict.Why = "not tried yet: there is no kernel to boot"
		verdict.QEMUVersion, err = qemu.CheckVersion(ctx, prober.Binary)
	} else {
		verdict, err = prober.Probe(ctx, kernel)
	}
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return exitGeneric
	}
	if err := json.NewEncoder(p.Stdout).Encode(verdict); err != nil {
		return exitGeneric
	}
	return exitOK
}

// run serves until the guest or ctx ends.
func (v *vmm) run(ctx context.Context, o options) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v.log.Info("Running Firecracker v" + Version)
	var l net.Listener
	if !o.noAPI {
		var err error
		if l, err = listenAPI(o.apiSocket); err != nil {
			return v.failed(exitGeneric, fmt.Errorf("RunWithApiError error: %w", err))
		}
		defer l.Close()
		v.log.Info(fmt.Sprintf("Listening on API socket (%q).", o.apiSocket))
	}
	// Whoever connects meanwhile waits, as with Firecracker: nobody else configures the file's VM.
	if o.configFile != "" {
		if err := v.startFrom(o.configFile); err != nil {
			mode := "RunWithApiError"
			if o.noAPI {
				mode = "RunWithoutApiError"
			}
			return v.failed(exitGeneric, fmt.Errorf("%s error: Failed to build MicroVM from Json: %w", mode, err))
		}
		v.log.Info("Successfully started microvm that was configured from one single json")
	}
	if l != nil {
		served := make(chan struct{})
		go func() {
			defer close(served)
			if err := v.serveAPI(ctx, l, o.maxBody); err != nil {
				v.log.Error(err.Error())
			}
		}()
		v.log.Info("API server started.")
		defer func() {
			cancel()
			<-served
		}()
	}
	return v.wait(ctx)
}

// wait writes metrics every minute until the guest or ctx ends.
func (v *vmm) wait(ctx context.Context) int {
	tick := time.NewTicker(metricsPeriod)
	defer tick.Stop()
	running := v.running
	var ended <-chan struct{}
	for {
		select {
		case <-running:
			running, ended = nil, v.qemu.Done()
		case <-tick.C:
			if err := v.metrics.flush(time.Now()); err != nil {
				v.log.Error("Failed to log metrics: " + err.Error())
			}
		case <-ctx.Done():
			return exitGeneric
		case <-ended:
			return v.stopped()
		}
	}
}

func (v *vmm) stopped() int {
	err := v.qemu.Err()
	v.log.Info("Vmm is stopping.")
	if flushErr := v.metrics.flush(time.Now()); flushErr != nil {
		v.log.Error("Failed to log metrics: " + flushErr.Error())
	}
	if err != nil {
		return v.failed(exitGeneric, err)
	}
	v.log.Info("Firecracker exiting successfully. exit_code=0")
	return exitOK
}

// startFrom configures the VM from a file, in the order in which a client would, and starts it.
func (v *vmm) startFrom(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("Unable to open or read from the configuration file: %s", osError(err))
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return fmt.Errorf("Unable to open or read from the configuration file: %s", osError(err))
	}
	if len(content) > maxConfigFile {
		return fmt.Errorf("Unable to open or read from the configuration file: it is larger than %d bytes", maxConfigFile)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.apply(content); err != nil {
		return fmt.Errorf("Configuration for VMM from one single json failed: %w", err)
	}
	if err := v.start(); err != nil {
		return fmt.Errorf("Could not Start MicroVM from one single json: %w", err)
	}
	return nil
}

// apply configures from the file's content, and ends at the first error. v.mu is held.
func (v *vmm) apply(content []byte) error {
	var c vmConfig
	if err := decode(content, &c); err != nil {
		return err
	}
	if c.BootSource == nil {
		return errors.New("missing field `boot-source`")
	}
	for what, given := range map[string]bool{
		"cpu-config": c.CPUConfig != nil, "memory-hotplug": c.MemoryHotplug != nil, "mmds-config": c.MMDSConfig != nil,
		"pmem": len(c.PMem) > 0,
	} {
		if given {
			return unsupported(what)
		}
	}
	steps := []func() error{
		each(c.Logger, v.putLogger),
		each(c.Metrics, v.putMetrics),
		each(c.MachineConfig, v.putMachineConfig),
		each(c.BootSource, v.putBootSource),
	}
	for _, d := range c.Drives {
		steps = append(steps, func() error { return withID(d.DriveID, d.DriveID, d, v.putDrive) })
	}
	for _, n := range c.NetworkInterfaces {
		steps = append(steps, func() error { return withID(n.IfaceID, n.IfaceID, n, v.putNetworkInterface) })
	}
	steps = append(steps, each(c.Vsock, v.putVsock), each(c.Balloon, v.putBalloon), each(c.Entropy, v.putEntropy))
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// each puts what is given.
func each[T any](c *T, put func(T) error) func() error {
	return func() error {
		if c == nil {
			return nil
		}
		return put(*c)
	}
}
