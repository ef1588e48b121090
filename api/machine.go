package api

import (
	"strconv"
	"strings"
	"time"
)

// State is where a machine is in its life. Only the daemon changes it.
type State string

// All states of a machine.
const (
	StateCreating State = "creating" // its disk is being made
	StateStopped  State = "stopped"  // has a disk and no VMM; Reason says why it stopped
	StateStarting State = "starting" // a VMM exists, the agent has not answered yet
	StateRunning  State = "running"  // the agent answers
	StateStopping State = "stopping" // asked to power off
	StateRemoving State = "removing" // its disk is being deleted
)

// Machine is one virtual machine as the daemon knows it; reading it never waits for the guest.
type Machine struct {
	ID         string   `json:"id"`   // 12 hex digits, never reused
	Name       string   `json:"name"` // DNS label (RFC 1123), unique
	State      State    `json:"state"`
	Reason     string   `json:"reason,omitempty"` // why it is stopped
	Image      string   `json:"image"`            // name of its image, or the image's id when the name is gone
	ImageID    string   `json:"image_id"`
	Kernel     string   `json:"kernel"`
	KernelID   string   `json:"kernel_id"`
	CPUs       int      `json:"cpus"`
	MemoryMiB  int      `json:"memory_mib"`
	DiskMiB    int      `json:"disk_mib"` // apparent size of its own disk, which is sparse
	Env        []string `json:"env,omitempty"`
	AutoRemove bool     `json:"auto_remove,omitempty"` // removed as soon as it stops
	// the name of the image that it was made to build; its disk is its root
	BuildsImage string  `json:"builds_image,omitempty"`
	Network     Network `json:"network"`
	Address     string  `json:"address,omitempty"` // IPv4, its own for its whole life
	// IPv6, made of Address; it has it where the host's kernel and its own have IPv6
	Address6 string `json:"address6,omitempty"`
	MAC      string `json:"mac,omitempty"`
	NAT      bool   `json:"nat,omitempty"`      // reaches the world beyond the other machines
	Isolated bool   `json:"isolated,omitempty"` // reaches no other machine, and none reaches it
	Gateway  string `json:"gateway,omitempty"`  // IPv4, of the names' server and the host's services
	MTU      int    `json:"mtu,omitempty"`      // bytes, of its network at its last start
	// TCP ports of the host's loopback that it reaches at the gateway
	HostServices []int `json:"host_services,omitempty"`
	// the ssh host key that it is known by, once there was a connection
	HostKey   string     `json:"host_key,omitempty"`
	Forwards  []Forward  `json:"forwards,omitempty"`
	VMM       *VMM       `json:"vmm,omitempty"` // nil unless a VMM process exists
	CreatedAt time.Time  `json:"created_at"`
	StartedAt *time.Time `json:"started_at,omitempty"` // last time it became running
	StoppedAt *time.Time `json:"stopped_at,omitempty"`
	Dir       string     `json:"dir"` // its folder on the host: disk, console log, sockets
}

// VMM is the process that runs a machine.
type VMM struct {
	Binary string `json:"binary"` // path of firecracker or firecracker-qemu
	PID    int    `json:"pid"`
}

// Network is what kind of network a machine has.
type Network string

// Both kinds.
const (
	NetworkUser Network = "user" // the user's own: other machines, and the world through the host
	NetworkNone Network = "none" // none at all
)

// MachineRef names a machine.
type MachineRef struct {
	Machine string `json:"-" path:"machine"` // its name, or a unique prefix of its id
}

// SetNAT opens or closes a machine's way to the world.
type SetNAT struct {
	Machine string `json:"-" path:"machine"`
	On      bool   `json:"on"`
}

// SetHostServices gives a machine the host's services that it may reach, in place of those it had.
type SetHostServices struct {
	Machine string `json:"-" path:"machine"`
	Ports   []int  `json:"ports"` // TCP, of the host's loopback
}

// PrepareSSH makes a running machine ready for one ssh connection.
type PrepareSSH struct {
	Machine string `json:"-" path:"machine"`
	// take the host key that it has now, also when it was known by another
	NewHostKey bool `json:"new_host_key,omitempty"`
}

// SSH is how to connect to a machine that is ready: run Command in it with the connection as its
// input and output, and check the key it shows against KnownHosts under Alias.
type SSH struct {
	Command    []string `json:"command"`
	HostKey    string   `json:"host_key"`    // type and base64
	Alias      string   `json:"alias"`       // name of the machine's key in KnownHosts, whatever the machine is called
	KnownHosts string   `json:"known_hosts"` // file
	Key        string   `json:"key"`         // file of the private key that the machine lets in, for every user
}

// CreateMachine asks for a new machine. Zero values mean the daemon's settings; an empty Name is
// made up.
type CreateMachine struct {
	Name          string   `json:"name,omitempty"`
	Image         string   `json:"image,omitempty"`
	Kernel        string   `json:"kernel,omitempty"`
	KernelDefault string   `json:"kernel_default,omitempty"` // of an image that names none, when Kernel is empty
	CPUs          int      `json:"cpus,omitempty"`
	MemoryMiB     int      `json:"memory_mib,omitempty"`
	DiskMiB       int      `json:"disk_mib,omitempty"`
	Env           []string `json:"env,omitempty"` // K=V, given to every command run in the machine
	AutoRemove    bool     `json:"auto_remove,omitempty"`
	Network       Network  `json:"network,omitempty"`
	Isolated      bool     `json:"isolated,omitempty"`
	// TCP ports of the host's loopback, to be reached at the gateway's address
	HostServices []int     `json:"host_services,omitempty"`
	Forwards     []Forward `json:"forwards,omitempty"`
	// the client takes the machine's lease next; without one, the next daemon removes the machine
	Lease bool `json:"lease,omitempty"`
}

// WaitMachine asks to be told when a machine meets a condition.
type WaitMachine struct {
	Machine string  `json:"-" path:"machine"`
	For     WaitFor `json:"-" query:"for"`
}

// WaitFor is a condition a client can wait for.
type WaitFor string

// All conditions.
const (
	WaitRunning WaitFor = "running" // the agent answers
	WaitBooted  WaitFor = "booted"  // the image's init system says that boot is finished
	WaitStopped WaitFor = "stopped" // no VMM is left
	// Besides these there is "port:N": something in the guest listens on that TCP port.
)

const waitPortPrefix = "port:"

// Port returns the port of a condition "port:N".
func (w WaitFor) Port() (port int, ok bool) {
	digits, ok := strings.CutPrefix(string(w), waitPortPrefix)
	port, err := strconv.Atoi(digits)
	return port, ok && err == nil && port > 0 && port <= 65535
}

// StartMachine says how to start a machine.
type StartMachine struct {
	Machine       string `json:"-" path:"machine"`
	BootTimeoutMS int64  `json:"boot_timeout_ms,omitempty"` // until the agent answers; 0 is the daemon's setting
}

// StopMachine says how to stop a machine.
type StopMachine struct {
	Machine string `json:"-" path:"machine"`
	// for the guest's own shutdown, then it is killed; 0 is the daemon's setting
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
}

// RestartMachine is StopMachine, then StartMachine.
type RestartMachine struct {
	Machine       string `json:"-" path:"machine"`
	TimeoutMS     int64  `json:"timeout_ms,omitempty"`      // as StopMachine has it
	BootTimeoutMS int64  `json:"boot_timeout_ms,omitempty"` // as StartMachine has it
}

// RemoveMachine deletes a machine and its disk.
type RemoveMachine struct {
	Machine string `json:"-" path:"machine"`
	Force   bool   `json:"-" query:"force"` // kill it first when it is not stopped
}

// KillMachine says which signal a machine's VMM gets; the guest is not asked.
type KillMachine struct {
	Machine string `json:"-" path:"machine"`
	Signal  string `json:"signal,omitempty"` // "KILL" (default), "TERM" or a number
}

// Logs asks for the console of a machine's last start.
type Logs struct {
	Machine string `json:"-" path:"machine"`
	Follow  bool   `json:"-" query:"follow"` // go on until the machine stops
}

// Files names files of a running machine, which travel as a tar stream.
type Files struct {
	Machine string `json:"-" path:"machine"`
	Path    string `json:"-" query:"path"`
}

// Stats is what a running machine uses, as seen from the guest and from the host.
type Stats struct {
	Name             string    `json:"name"`
	ID               string    `json:"id"`
	CPUs             int       `json:"cpus"`
	Load1            float64   `json:"load1"`
	GuestCPUMS       int64     `json:"guest_cpu_ms"` // busy time of all its CPUs since boot
	MemoryTotalBytes uint64    `json:"memory_total_bytes"`
	MemoryUsedBytes  uint64    `json:"memory_used_bytes"` // total less available
	DiskTotalBytes   uint64    `json:"disk_total_bytes"`
	DiskUsedBytes    uint64    `json:"disk_used_bytes"`
	Processes        int       `json:"processes"`
	HostDiskBytes    int64     `json:"host_disk_bytes"` // what the machine's folder takes on the host
	HostMemoryBytes  int64     `json:"host_memory_bytes"`
	At               time.Time `json:"at"`
}
