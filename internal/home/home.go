// Package home is where everything of one user's banger lies: a folder, and the name of each file
// and folder in it. What lies deeper belongs to the package that fills the folder.
package home

import (
	"path/filepath"

	"banger/api"
)

// MaxSocketPathBytes is what sun_path of unix(7) holds besides its terminating zero.
const MaxSocketPathBytes = 107

// Dir is a home folder, an absolute and clean path. Its own folders are for its user alone.
type Dir string

// Socket is where the daemon serves its API.
func (d Dir) Socket() string { return d.join("daemon.sock") }

// Lock is held (flock) by the daemon for its whole life, and names its process.
func (d Dir) Lock() string { return d.join("daemon.lock") }

// Log is what a daemon says that was started by a command.
func (d Dir) Log() string { return d.join("daemon.log") }

// Database holds the records of package store.
func (d Dir) Database() string { return d.join("state.db") }

// VMMVerdict keeps what the trial boot of firecracker found.
func (d Dir) VMMVerdict() string { return d.join("firecracker-verdict.json") }

// VMs is the folder of the machines' folders.
func (d Dir) VMs() string { return d.join("vms") }

// VM is the folder of the machine with that id; see vm.Dir.
func (d Dir) VM(id string) string { return filepath.Join(d.VMs(), id) }

// Images is the folder of the images' folders, by id.
func (d Dir) Images() string { return d.join("images") }

// Kernels is the folder of the kernel bundles' folders, by id.
func (d Dir) Kernels() string { return d.join("kernels") }

// Layers are the layers of registries, by the sha256 of their content.
func (d Dir) Layers() string { return d.join("cache", "layers", "sha256") }

// Downloads are the files that builds take from the net, by hash.
func (d Dir) Downloads() string { return d.join("cache", "downloads") }

// Builds is the folder of the builds' logs.
func (d Dir) Builds() string { return d.join("builds") }

// Network is the folder of the machines' network.
func (d Dir) Network() string { return d.join("net") }

// SSH is the folder of the owner's key and of ssh's configuration; see ssh.Dir.
func (d Dir) SSH() string { return d.join("ssh") }

func (d Dir) join(names ...string) string {
	return filepath.Join(append([]string{string(d)}, names...)...)
}

// Check refuses a folder whose path is too long for the daemon's socket. It may still be too long
// for a machine's, which is refused when one is made; see LongestSocket.
func (d Dir) Check() error { return CheckSocketPath(d.Socket()) }

// LongestSocket is as long as the longest path of a socket in the home, which is a machine's.
func (d Dir) LongestSocket() string { return filepath.Join(d.VM("0123456789ab"), "vsock.sock") }

// CheckSocketPath refuses a path in the home that is too long for a socket.
func CheckSocketPath(path string) error {
	if len(path) <= MaxSocketPathBytes {
		return nil
	}
	const text = "socket path %s has %d bytes, the kernel allows %d"
	return api.Errorf(api.CodeInvalid, text, path, len(path), MaxSocketPathBytes).
		WithHint("set BANGER_HOME to a shorter path")
}
