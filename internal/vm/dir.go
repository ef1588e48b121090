package vm

import (
	"errors"
	"path/filepath"

	homefolder "banger/internal/home"
)

// Dir is a VM's folder on the host. All that belongs to the VM alone lies in it.
type Dir string

// Disk is the VM's own ext4 filesystem, sparse.
func (d Dir) Disk() string { return filepath.Join(string(d), "disk.ext4") }

// Inputs is the read-only drive of a VM that builds an image.
func (d Dir) Inputs() string { return filepath.Join(string(d), "inputs.ext4") }

// Lock is held (flock) by the VMM for its whole life; it alone says whether the VM runs.
func (d Dir) Lock() string { return filepath.Join(string(d), "lock") }

// Lease is held (flock) by the daemon process that serves the lease's client.
func (d Dir) Lease() string { return filepath.Join(string(d), "lease") }

// APISocket is where the VMM serves Firecracker's API.
func (d Dir) APISocket() string { return filepath.Join(string(d), "api.sock") }

// VsockSocket is where the VMM takes connections to the guest's vsock ports.
func (d Dir) VsockSocket() string { return filepath.Join(string(d), "vsock.sock") }

// ConsoleLog is what the guest wrote to its serial console since its last start.
func (d Dir) ConsoleLog() string { return filepath.Join(string(d), "console.log") }

// VMMLog is what the VMM said since the last start.
func (d Dir) VMMLog() string { return filepath.Join(string(d), "vmm.log") }

// checkSocketPaths refuses a folder in which a socket's path would be too long for the kernel.
func (d Dir) checkSocketPaths() error {
	return errors.Join(homefolder.CheckSocketPath(d.APISocket()), homefolder.CheckSocketPath(d.VsockSocket()))
}
