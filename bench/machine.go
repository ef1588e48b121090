package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"banger/api"
)

// machine is what a VM of banger runs on, so that a bare QEMU can be given the same.
type machine struct {
	binary   string   // of QEMU
	model    []string // QEMU's arguments for board, CPUs and memory
	bootArgs string   // the kernel's, with those that firecracker-qemu adds
	vmConfig
}

// vmConfig is the part of Firecracker's GET /vm/config that is needed here.
type vmConfig struct {
	BootSource struct {
		Kernel string `json:"kernel_image_path"`
		Initrd string `json:"initrd_path"`
	} `json:"boot-source"`
	Drives []drive `json:"drives"`
}

type drive struct {
	ID       string `json:"drive_id"`
	Path     string `json:"path_on_host"`
	ReadOnly bool   `json:"is_read_only"`
}

// machineOf asks the VMM of a running VM, and its QEMU's command line.
func machineOf(ctx context.Context, vm api.Machine) (machine, error) {
	pid, err := qemuOf(vm)
	if err != nil {
		return machine{}, err
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return machine{}, fmt.Errorf("read QEMU's arguments: %w", err)
	}
	m, err := parseMachine(strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00"))
	if err != nil {
		return machine{}, err
	}
	if m.binary, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
		return machine{}, fmt.Errorf("find QEMU: %w", err)
	}
	m.vmConfig, err = readVMConfig(ctx, filepath.Join(vm.Dir, "api.sock"))
	return m, err
}

// qemuOf returns the pid of the QEMU of a running VM, the one child of its VMM.
func qemuOf(vm api.Machine) (int, error) {
	if vm.VMM == nil {
		return 0, fmt.Errorf("machine %s has no VMM", vm.Name)
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", vm.VMM.PID))
	if err != nil {
		return 0, err
	}
	for _, path := range lists {
		list, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		if children := bytes.Fields(list); len(children) > 0 {
			return strconv.Atoi(string(children[0]))
		}
	}
	return 0, fmt.Errorf("the VMM of %s has no QEMU", vm.Name)
}

// parseMachine picks from QEMU's arguments what makes the machine. Its memory is anonymous in a
// bare QEMU, so the board's reference to another is dropped.
func parseMachine(args []string) (machine, error) {
	var m machine
	for _, flag := range []string{"-M", "-cpu", "-smp", "-m", "-append"} {
		i := slices.Index(args, flag)
		if i < 0 || i+1 == len(args) {
			return machine{}, fmt.Errorf("QEMU was started without %s", flag)
		}
		value := args[i+1]
		if flag == "-append" {
			m.bootArgs = value
			continue
		}
		m.model = append(m.model, flag, strings.ReplaceAll(value, ",memory-backend=ram", ""))
	}
	return m, nil
}

func readVMConfig(ctx context.Context, socket string) (config vmConfig, err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vmm/vm/config", nil)
	if err != nil {
		return config, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return config, fmt.Errorf("ask VMM for its configuration: %w", err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&config); err != nil {
		return config, fmt.Errorf("read VMM's configuration: %w", err)
	}
	return config, nil
}

// neededArgs are those kernel arguments without which a boot does not work or does not end: console
// and reset, and the clock that emulation needs.
var neededArgs = []string{"console", "quiet", "reboot", "panic", "tsc_early_khz", "tsc"}

// stockArgs leaves out what banger adds to be faster.
func stockArgs(bootArgs string) string {
	return strings.Join(slices.DeleteFunc(strings.Fields(bootArgs), func(arg string) bool {
		key, _, _ := strings.Cut(arg, "=")
		return !slices.Contains(neededArgs, key)
	}), " ")
}
