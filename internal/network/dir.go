package network

import (
	"path/filepath"

	"banger/internal/home"
)

// Dir is the folder of a home's network.
type Dir string

// HomeDir returns the folder of a home's network.
func HomeDir(h home.Dir) Dir { return Dir(h.Network()) }

// Home is the home that has the network.
func (d Dir) Home() home.Dir { return home.Dir(filepath.Dir(string(d))) }

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

// EndpointsNote has the endpoints for a keeper that finds no holder.
func (d Dir) EndpointsNote() string { return filepath.Join(string(d), "ports.json") }

// DNSNote is there while the host is to ask for names of VMs.
func (d Dir) DNSNote() string { return filepath.Join(string(d), "dns-is-routed") }

// Check refuses a path that is too long for a socket.
func (d Dir) Check() error { return home.CheckSocketPath(d.ControlSocket()) }
