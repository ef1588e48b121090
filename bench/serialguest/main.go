// Command serialguest is the /init of the VM that the benchmark of exec compares with: the least
// that can start a program of an image when asked to.
//
// It loads the initrd's modules, mounts the first drive read-only and serves the virtio-serial
// port: a line is the path of a program, which runs with the drive as its root, and the answer is
// its exit code; an empty line is answered at once.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/vsockmux"
)

const (
	image       = "/image"
	devicesWait = 10 * time.Second
	devicesPoll = 5 * time.Millisecond
)

func main() {
	if err := serve(context.Background()); err != nil {
		fmt.Println("serialguest:", err) // to the console; the kernel panics when this ends, and resets
	}
}

func serve(ctx context.Context) error {
	runtime.GOMAXPROCS(1) // as banger-guest does: to wake a second virtual CPU costs more than it brings
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := os.Mkdir(image, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, devicesWait, errors.New("the devices do not appear"))
	defer cancel()
	var port *os.File
	mounted := false
	tick := time.NewTicker(devicesPoll)
	defer tick.Stop()
	for port == nil || !mounted {
		mounted = mounted || unix.Mount("/dev/vda", image, "ext4", unix.MS_RDONLY, "") == nil
		if port == nil {
			port = openPort()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if _, err := fmt.Fprintln(port, "ready"); err != nil {
		return err
	}
	return answer(bufio.NewScanner(port), port)
}

// loadModules loads the modules in the order that the initrd lists. Those that fail show in the
// devices that do not appear.
func loadModules() error {
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(order)) {
		name := strings.TrimSpace(line)
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		file, err := os.Open(filepath.Join("/modules", name))
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil {
			fmt.Println("serialguest: load", name, err)
		}
		file.Close()
	}
	return nil
}

// openPort opens the serial port, or returns nil when it is not there yet.
func openPort() *os.File {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, path := range names {
		if name, _ := os.ReadFile(path); strings.TrimSpace(string(name)) != vsockmux.PortName {
			continue
		}
		if port, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(path)), os.O_RDWR, 0); err == nil {
			return port
		}
	}
	return nil
}

// answer serves until the port closes.
func answer(lines *bufio.Scanner, to *os.File) error {
	for lines.Scan() {
		code := 0
		if path := lines.Text(); path != "" {
			command := &exec.Cmd{Path: path, Args: []string{path}, SysProcAttr: &syscall.SysProcAttr{Chroot: image}}
			if err := command.Run(); err != nil {
				fmt.Println("serialguest:", err)
				code = 1
			}
		}
		if _, err := fmt.Fprintln(to, code); err != nil {
			return err
		}
	}
	return lines.Err()
}
