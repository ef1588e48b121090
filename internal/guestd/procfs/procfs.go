// Package procfs reads the few files of /proc that tell how busy a guest is and what listens in it.
// The tree is read through a path, so that a test can lay out its own.
package procfs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const maxFileBytes = 4 << 20 // of any one file read here

// ticksPerSecond is USER_HZ, 100 on every architecture Go runs on.
const ticksPerSecond = 100

// CPU is the time all CPUs spent since boot.
type CPU struct {
	Count           int
	BusyMS, TotalMS uint64
}

// ReadCPU reads /proc/stat, see proc_stat(5).
func ReadCPU(proc string) (CPU, error) {
	b, err := readFile(proc, "stat")
	if err != nil {
		return CPU{}, err
	}
	return parseCPU(b)
}

func parseCPU(stat []byte) (CPU, error) {
	var c CPU
	for line := range bytes.Lines(stat) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		if fields[0] != "cpu" {
			c.Count++
			continue
		}
		// user nice system idle iowait irq softirq steal; guest time behind them is part of user
		for i, f := range fields[1:min(len(fields), 9)] {
			ticks, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				return CPU{}, fmt.Errorf("parse stat: %w", err)
			}
			c.TotalMS += ticks * (1000 / ticksPerSecond)
			if i != 3 && i != 4 {
				c.BusyMS += ticks * (1000 / ticksPerSecond)
			}
		}
	}
	if c.Count == 0 {
		return CPU{}, fmt.Errorf("parse stat: no cpu line")
	}
	return c, nil
}

// Memory is in bytes.
type Memory struct {
	Total, Available uint64
}

// ReadMemory reads /proc/meminfo.
func ReadMemory(proc string) (Memory, error) {
	b, err := readFile(proc, "meminfo")
	if err != nil {
		return Memory{}, err
	}
	return parseMemory(b)
}

func parseMemory(meminfo []byte) (Memory, error) {
	var m Memory
	for line := range bytes.Lines(meminfo) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		var to *uint64
		switch fields[0] {
		case "MemTotal:":
			to = &m.Total
		case "MemAvailable:":
			to = &m.Available
		default:
			continue
		}
		kib, err := strconv.ParseUint(fields[1], 10, 54)
		if err != nil {
			return Memory{}, fmt.Errorf("parse meminfo: %w", err)
		}
		*to = kib << 10
	}
	if m.Total == 0 {
		return Memory{}, fmt.Errorf("parse meminfo: no MemTotal")
	}
	return m, nil
}

// ReadLoad reads the load averages of 1, 5 and 15 minutes.
func ReadLoad(proc string) (load [3]float64, err error) {
	b, err := readFile(proc, "loadavg")
	if err != nil {
		return load, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < len(load) {
		return load, fmt.Errorf("parse loadavg: %d fields", len(fields))
	}
	for i := range load {
		if load[i], err = strconv.ParseFloat(fields[i], 64); err != nil {
			return load, fmt.Errorf("parse loadavg: %w", err)
		}
	}
	return load, nil
}

// PIDs lists the processes.
func PIDs(proc string) ([]int, error) {
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Process is what /proc/PID/stat says of a process.
type Process struct {
	Name   string // at most 15 bytes, as the kernel keeps it
	Parent int
}

// ReadProcess reads one process, which may be gone.
func ReadProcess(proc string, pid int) (Process, error) {
	b, err := readFile(proc, strconv.Itoa(pid)+"/stat")
	if err != nil {
		return Process{}, err
	}
	return parseProcess(b)
}

// parseProcess reads "PID (NAME) STATE PPID ..."; the name may hold anything, also spaces and
// brackets.
func parseProcess(stat []byte) (Process, error) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("parse process: no name")
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 2 {
		return Process{}, fmt.Errorf("parse process: no parent")
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return Process{}, fmt.Errorf("parse process: %w", err)
	}
	return Process{Name: string(stat[open+1 : end]), Parent: parent}, nil
}

func readFile(proc, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(proc, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(bufio.NewReader(io.LimitReader(f, maxFileBytes)))
}
