// Package host is what banger makes of the host it runs on: its own programs, which VMM works here,
// and (the doctor) what is missing and how to repair it.
package host

import (
	"fmt"
	"os"
	"path/filepath"

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
			return Tools{}, api.Errorf(api.CodeUnavailable, "banger is not whole: %w", err).
				WithHint("banger, banger-guest and firecracker-qemu belong in one folder; build them with: make build")
		}
	}
	return t, nil
}
