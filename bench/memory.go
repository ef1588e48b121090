package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"banger/api"
)

// measureMemory reads what the processes of one VM have in memory, shared pages divided among those
// that share them. Each is one sample.
func (b *bench) measureMemory(ctx context.Context) (_ result, err error) {
	r := result{
		Note: "memory of the processes, with one machine at rest; the resident size, and the proportional one (Pss) of what is per machine",
	}
	if err := b.restartDaemon(ctx, func() error { return nil }); err != nil {
		return r, err
	}
	add := func(name string, bytes int64) {
		r.Series = append(r.Series, newSeries(name, "MiB", float64(bytes)/(1<<20)))
	}
	status, err := b.client.Status(ctx)
	if err != nil {
		return r, err
	}
	add(fmt.Sprintf("daemon, resident, %d machines running", status.RunningMachines), status.RSSBytes)
	vm, remove, err := b.boot(ctx, api.WaitBooted)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := b.waitIdle(ctx, vm.ID); err != nil {
		return r, err
	}
	if status, err = b.client.Status(ctx); err != nil {
		return r, err
	}
	add(fmt.Sprintf("daemon, resident, %d machine running", status.RunningMachines), status.RSSBytes)
	vmm, err := memoryOf(vm.VMM.PID)
	if err != nil {
		return r, err
	}
	qemuPID, err := qemuOf(vm)
	if err != nil {
		return r, err
	}
	qemu, err := memoryOf(qemuPID)
	if err != nil {
		return r, err
	}
	add("firecracker-qemu, resident", vmm.rssBytes)
	add("firecracker-qemu, proportional", vmm.pssBytes)
	add("QEMU beside the guest's memory, resident", qemu.rssBytes)
	add("QEMU beside the guest's memory, proportional", qemu.pssBytes)
	add(fmt.Sprintf("the guest's memory, touched of %d MiB", vm.MemoryMiB), qemu.guestBytes)
	return r, nil
}

// memory is what a process has in memory, a guest's memory apart.
type memory struct{ rssBytes, pssBytes, guestBytes int64 }

func memoryOf(pid int) (memory, error) {
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return memory{}, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	return sumMemory(smaps)
}

// guestMapping is the file that QEMU maps as the guest's memory (its object memory-backend-memfd).
const guestMapping = "/memfd:memory-backend-memfd"

// sumMemory adds up a /proc/PID/smaps (proc_pid_smaps(5)): mappings, each with a head "from-to mode
// offset device inode path" and lines "Key: N kB".
func sumMemory(smaps []byte) (m memory, err error) {
	guest := false
	lines := bufio.NewScanner(bytes.NewReader(smaps))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if !strings.HasSuffix(fields[0], ":") {
			guest = len(fields) > 5 && strings.HasPrefix(fields[5], guestMapping)
			continue
		}
		if fields[0] != "Rss:" && fields[0] != "Pss:" {
			continue
		}
		if len(fields) < 2 {
			return memory{}, fmt.Errorf("read smaps: %q", lines.Text())
		}
		kiB, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return memory{}, fmt.Errorf("read smaps: %w", err)
		}
		switch {
		case guest && fields[0] == "Rss:":
			m.guestBytes += kiB << 10
		case guest:
		case fields[0] == "Rss:":
			m.rssBytes += kiB << 10
		default:
			m.pssBytes += kiB << 10
		}
	}
	return m, lines.Err()
}
