// Package host knows the machine that banger runs on: the programs it needs, which VMM works here, what processes use,
// and (the doctor) what is missing and how to repair it.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"banger/api"
)

// Tools are the programs that come with banger, all from one folder.
type Tools struct {
	Self  string // banger itself
	Guest string // banger-guest, for initrds
	QEMU  string // firecracker-qemu
}

// FindTools looks for banger's own programs beside the one that runs, its symbolic links resolved.
func FindTools() (Tools, error) {
	self, err := os.Executable()
	if err != nil {
		return Tools{}, fmt.Errorf("find own program: %w", err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return Tools{}, fmt.Errorf("find own program: %w", err)
	}
	dir := filepath.Dir(self)
	t := Tools{Self: self, Guest: filepath.Join(dir, "banger-guest"), QEMU: filepath.Join(dir, "firecracker-qemu")}
	for _, path := range []string{t.Guest, t.QEMU} {
		if _, err := os.Stat(path); err != nil {
			return Tools{}, api.Errorf(api.CodeUnavailable, "banger is not whole: %w", err).WithHint("banger, banger-guest and firecracker-qemu belong in one folder; build them with: make build")
		}
	}
	return t, nil
}

// ProcessRSSBytes returns the memory that a process has resident.
func ProcessRSSBytes(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read memory of process %d: %q", pid, data)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// TreeRSSBytes returns the resident memory of a process and of its children; those that end meanwhile count nothing.
func TreeRSSBytes(pid int) (int64, error) {
	sum, err := ProcessRSSBytes(pid)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, path := range children {
		list, _ := os.ReadFile(path) // the task may have ended
		for field := range bytes.FieldsSeq(list) {
			child, err := strconv.Atoi(string(field))
			if err != nil {
				continue
			}
			rss, err := TreeRSSBytes(child)
			if err != nil {
				return 0, err
			}
			sum += rss
		}
	}
	return sum, nil
}
