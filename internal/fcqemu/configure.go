package fcqemu

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
)

// The handlers of PUT and PATCH before the start. v.mu is held in all of them.

const maxVCPUs = 32

func (v *vmm) putBootSource(c bootSource) error {
	kernel, err := os.Open(c.KernelImagePath)
	if err != nil {
		return fmt.Errorf("Boot source error: The kernel file cannot be opened: %s", osError(err))
	}
	files := &bootFiles{config: c, kernel: kernel}
	if c.InitrdPath != nil {
		if files.initrd, err = os.Open(*c.InitrdPath); err != nil {
			kernel.Close()
			return fmt.Errorf(
				"Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. %s",
				osError(err),
			)
		}
	}
	if c.BootArgs != nil && (len(*c.BootArgs) >= maxCommandLine || strings.ContainsFunc(*c.BootArgs, notPrintable)) {
		files.close()
		return errors.New(
			"Boot source error: The kernel command line is invalid: it is longer than 2048 bytes or holds a character that is not printable ASCII",
		)
	}
	if v.boot != nil {
		v.boot.close()
	}
	v.boot = files
	return nil
}

// maxCommandLine is Firecracker's, and the x86 kernel's.
const maxCommandLine = 2048

func notPrintable(r rune) bool { return r < ' ' || r > '~' }

func (v *vmm) putMachineConfig(c machineConfig) error {
	if c.HugePages == "" {
		c.HugePages = "None"
	}
	switch {
	case c.VCPUCount == 0 || c.VCPUCount > maxVCPUs || c.SMT && c.VCPUCount > 1 && c.VCPUCount%2 == 1:
		return errors.New(
			"Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.",
		)
	case c.MemSizeMiB == 0 || c.HugePages == "2M" && c.MemSizeMiB%2 == 1:
		return errors.New("Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	case v.balloon != nil && uint64(v.balloon.AmountMiB) > c.MemSizeMiB:
		return errors.New("Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size.")
	case c.CPUTemplate != nil && *c.CPUTemplate != "None":
		return unsupported("cpu_template " + string(*c.CPUTemplate))
	case c.TrackDirtyPages:
		return unsupported("track_dirty_pages")
	case c.HugePages != "None":
		return unsupported("huge_pages " + string(c.HugePages))
	}
	c.CPUTemplate = nil
	v.machine = c
	return nil
}

func (v *vmm) patchMachineConfig(p machineConfigPatch) error {
	if p == (machineConfigPatch{}) {
		return errors.New("Empty PATCH request.")
	}
	c := v.machine
	set(&c.VCPUCount, p.VCPUCount)
	set(&c.MemSizeMiB, p.MemSizeMiB)
	set(&c.SMT, p.SMT)
	set(&c.TrackDirtyPages, p.TrackDirtyPages)
	set(&c.HugePages, p.HugePages)
	c.CPUTemplate = p.CPUTemplate
	return v.putMachineConfig(c)
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (v *vmm) putDrive(c drive) error {
	if c.Socket != nil {
		return unsupported("a vhost-user drive")
	}
	if c.PathOnHost == nil {
		return errors.New(
			"Drive config error: Unable to create the virtio block device: Virtio backend error: Configuration is invalid: path_on_host is missing",
		)
	}
	set(&c.CacheType, defaultTo(c.CacheType, "Unsafe"))
	if c.IsReadOnly == nil {
		c.IsReadOnly = new(bool)
	}
	if c.IOEngine == nil {
		sync := ioEngine("Sync")
		c.IOEngine = &sync
	}
	c.RateLimiter = c.RateLimiter.normal()
	at := slices.IndexFunc(v.drives, func(d *driveFile) bool { return d.config.DriveID == c.DriveID })
	if c.IsRootDevice && len(v.drives) > 0 && v.drives[0].config.IsRootDevice && at != 0 {
		return errors.New("Drive config error: A root block device already exists!")
	}
	file, err := openDrive(*c.PathOnHost, *c.IsReadOnly)
	if err != nil {
		return fmt.Errorf("Drive config error: Unable to create the virtio block device: Virtio backend error: %w", err)
	}
	added := &driveFile{config: c, file: file}
	switch {
	case at >= 0:
		v.drives[at].file.Close()
		v.drives[at] = added
		if c.IsRootDevice {
			v.drives[0], v.drives[at] = v.drives[at], v.drives[0]
		}
	case c.IsRootDevice:
		v.drives = slices.Insert(v.drives, 0, added)
	default:
		v.drives = append(v.drives, added)
	}
	return nil
}

// defaultTo returns nil when value is set.
func defaultTo[T ~string](value, otherwise T) *T {
	if value != "" {
		return nil
	}
	return &otherwise
}

// openDrive opens without following up on what a FIFO or terminal would do: only regular files and
// block devices are drives.
func openDrive(path string, readOnly bool) (*os.File, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	file, err := os.OpenFile(path, mode|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("Error manipulating the backing file: %s %s", osError(err), path)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() && info.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		err = errors.New("neither a regular file nor a block device")
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("Error manipulating the backing file: %s %s", osError(err), path)
	}
	return file, nil
}

func (v *vmm) putNetworkInterface(c networkInterface) error {
	c.RxRateLimiter, c.TxRateLimiter = c.RxRateLimiter.normal(), c.TxRateLimiter.normal()
	if c.RxRateLimiter != nil || c.TxRateLimiter != nil {
		return unsupported("a network rate limiter")
	}
	if c.GuestMAC != nil {
		mac, err := net.ParseMAC(*c.GuestMAC)
		if err != nil || len(mac) != 6 {
			return fmt.Errorf("An error occurred when deserializing the json body of a request: invalid MAC address %q.", *c.GuestMAC)
		}
		text := mac.String()
		c.GuestMAC = &text
	}
	if c.MTU != nil && *c.MTU < 68 {
		return errors.New("Network config error: The MTU must be between 68 and 65535.")
	}
	at := -1
	for i, n := range v.nics {
		switch {
		case n.config.IfaceID == c.IfaceID:
			at = i
		case c.GuestMAC != nil && n.config.GuestMAC != nil && *n.config.GuestMAC == *c.GuestMAC:
			return fmt.Errorf("Network config error: The MAC address is already in use: %s", *c.GuestMAC)
		}
	}
	// A tap that this interface holds already would be busy for a second open.
	if at >= 0 && v.nics[at].config.HostDevName == c.HostDevName {
		v.nics[at].config = c
		return nil
	}
	tap, err := openTap(c.HostDevName)
	if err != nil {
		return fmt.Errorf("Network config error: Could not create the network device: Open tap device failed: %w", err)
	}
	if at < 0 {
		v.nics = append(v.nics, &nicFile{config: c, tap: tap})
		return nil
	}
	v.nics[at].tap.Close()
	v.nics[at] = &nicFile{config: c, tap: tap}
	return nil
}

func (v *vmm) putVsock(c vsock) error {
	if c.GuestCID < 3 {
		return errors.New("Vsock config error: Cannot create vsock device: the guest's CID must be 3 or more")
	}
	c.VsockID = nil
	if v.bridge != nil {
		v.bridge.close()
		if err := os.Remove(v.bridge.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("Vsock config error: Cannot create backend for vsock device: %s", osError(err))
		}
		v.bridge, v.vsockConfig = nil, nil
	}
	bridge, err := listenVsock(c.UDSPath, v.log, v.metrics)
	if err != nil {
		return fmt.Errorf("Vsock config error: %w", err)
	}
	v.bridge, v.vsockConfig = bridge, &c
	go bridge.serve(v.ctx)
	return nil
}

func (v *vmm) putEntropy(c entropy) error {
	c.RateLimiter = c.RateLimiter.normal()
	if c.RateLimiter != nil && c.RateLimiter.Ops != nil {
		return unsupported("the ops rate limiter of an entropy device")
	}
	v.entropy = &c
	return nil
}

func (v *vmm) putBalloon(c balloon) error {
	if c.FreePageHinting {
		return unsupported("free_page_hinting")
	}
	if uint64(c.AmountMiB) > v.machine.MemSizeMiB {
		return errTooManyPages
	}
	v.balloon = &c
	return nil
}

// putLogger changes nothing when it fails.
func (v *vmm) putLogger(c loggerConfig) error {
	var level *slog.Level
	if c.Level != nil {
		l, err := parseLevel(*c.Level)
		if err != nil {
			return fmt.Errorf("An error occurred when deserializing the json body of a request: %w.", err)
		}
		level = &l
	}
	var out io.Writer
	if c.LogPath != nil {
		file, err := openOutput(*c.LogPath)
		if err != nil {
			return fmt.Errorf("Logger error: Failed to open target file: %s", osError(err))
		}
		out = file
	}
	v.handler.configure(out, level, c.ShowLevel)
	v.logger = &c
	return nil
}

func (v *vmm) putMetrics(c metricsConfig) error {
	if v.metrics.out != nil {
		return errors.New("Metrics error: Failed to initialize metrics: Reinitialization of metrics not allowed.")
	}
	file, err := openOutput(c.MetricsPath)
	if err != nil {
		return fmt.Errorf("Metrics error: Failed to initialize metrics: %s", osError(err))
	}
	v.metrics.setOutput(file)
	v.metricsPath = &c
	return nil
}

// normal makes limiters and buckets that limit nothing absent, as Firecracker shows them.
func (r *rateLimiter) normal() *rateLimiter {
	if r == nil {
		return nil
	}
	n := rateLimiter{Bandwidth: r.Bandwidth.normal(), Ops: r.Ops.normal()}
	if n.Bandwidth == nil && n.Ops == nil {
		return nil
	}
	return &n
}

func (b *tokenBucket) normal() *tokenBucket {
	if b == nil || b.Size == 0 || b.RefillTime == 0 {
		return nil
	}
	return b
}
