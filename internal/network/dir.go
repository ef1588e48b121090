package network

import (
	"fmt"
	"path/filepath"
)

// Dir is the folder of a home's network.
type Dir string

// HomeDir returns the folder of a home's network.
func HomeDir(home string) Dir { return Dir(filepath.Join(home, "net")) }

// Lock is the file whose flock says that a keeper runs.
func (d Dir) Lock() string { return filepath.Join(string(d), "lock") }

// ControlSocket is where the keeper listens for Client.
func (d Dir) ControlSocket() string { return filepath.Join(string(d), "control.sock") }

// HolderSocket is where the holder listens for keepers.
func (d Dir) HolderSocket() string { return filepath.Join(string(d), "holder.sock") }

// Log is the log of both processes.
func (d Dir) Log() string { return filepath.Join(string(d), "log") }

// PastaPID notes the running pasta for a keeper that finds none of its own.
func (d Dir) PastaPID() string { return filepath.Join(string(d), "pasta.pid") }

// PortsNote has the ports for a keeper that finds no holder.
func (d Dir) PortsNote() string { return filepath.Join(string(d), "ports.json") }

// DNSNote is there while the host is to ask for names of VMs.
func (d Dir) DNSNote() string { return filepath.Join(string(d), "dns-is-routed") }

// socketPathMax is the longest usable path of a unix socket, sun_path without its NUL (unix(7)).
const socketPathMax = 107

// Check reports a path that is too long for a socket.
func (d Dir) Check() error {
	if n := len(d.ControlSocket()); n > socketPathMax {
		return fmt.Errorf("path of the network's socket has %d bytes, %d is the limit; choose a shorter home folder", n, socketPathMax)
	}
	return nil
}
