package guest

import (
	"context"
	"net"
	"net/netip"
	"time"

	agentv1 "banger/proto/agent/v1"
)

// Health is who answers in a VM, and how far it is.
type Health struct {
	Protocol     int
	Build        string // of banger-guest
	Init         string // systemd, openrc, sysvinit, busybox, other or none
	Booted       bool   // the init has finished
	Hostname     string
	Kernel       string // release
	Distribution string // empty when the image does not say
	Uptime       time.Duration
	Stages       []BootStage // of banger-guest's boot order
}

// BootStage is one step of the boot.
type BootStage struct {
	Name     string
	Start    time.Duration // since the guest's kernel started
	Duration time.Duration
}

// Stats is how busy a VM is. Times are of all CPUs since boot.
type Stats struct {
	CPUs                 int
	CPUBusy, CPUTotal    time.Duration
	Load1, Load5, Load15 float64
	MemoryTotalBytes     uint64
	MemoryAvailableBytes uint64
	DiskTotalBytes       uint64 // of the root file system
	DiskAvailableBytes   uint64
	Processes            int
}

// ListeningPort is a socket of the guest that waits for peers.
type ListeningPort struct {
	Network string // tcp, tcp6, udp, udp6
	Address netip.AddrPort
	PID     int // 0 when not known
	Process string
}

// Health asks the agent who it is.
func (c *Client) Health(ctx context.Context) (Health, error) {
	h, err := unary(ctx, "ask agent's health", callTimeout, c.agent.Health, &agentv1.HealthRequest{})
	if err != nil {
		return Health{}, err
	}
	health := Health{
		Protocol: int(h.Protocol), Build: h.Build, Init: h.Init, Booted: h.Booted, Hostname: h.Hostname, Kernel: h.Kernel,
		Distribution: h.Distribution, Uptime: time.Duration(h.UptimeMs) * time.Millisecond,
	}
	for _, s := range h.Stages {
		health.Stages = append(health.Stages, BootStage{
			Name: s.Name, Start: time.Duration(s.StartUs) * time.Microsecond, Duration: time.Duration(s.DurationUs) * time.Microsecond,
		})
	}
	return health, nil
}

// WaitBooted returns when the image's init has finished: "running", or "degraded" or "maintenance"
// when it has not gone well. It has no deadline but ctx's.
func (c *Client) WaitBooted(ctx context.Context) (state string, err error) {
	r, err := unary(ctx, "wait for boot", 0, c.agent.WaitBooted, &agentv1.WaitBootedRequest{})
	if err != nil {
		return "", err
	}
	return r.State, nil
}

// Stats measures the VM from inside.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	s, err := unary(ctx, "read guest's stats", callTimeout, c.agent.Stats, &agentv1.StatsRequest{})
	if err != nil {
		return Stats{}, err
	}
	return Stats{
		CPUs: int(s.Cpus), CPUBusy: time.Duration(s.CpuBusyMs) * time.Millisecond, CPUTotal: time.Duration(s.CpuTotalMs) * time.Millisecond,
		Load1: s.Load_1, Load5: s.Load_5, Load15: s.Load_15,
		MemoryTotalBytes: s.MemoryTotalBytes, MemoryAvailableBytes: s.MemoryAvailableBytes,
		DiskTotalBytes: s.DiskTotalBytes, DiskAvailableBytes: s.DiskAvailableBytes, Processes: int(s.Processes),
	}, nil
}

// Ports lists what listens in the VM, ordered by network and port.
func (c *Client) Ports(ctx context.Context) ([]ListeningPort, error) {
	r, err := unary(ctx, "list guest's ports", callTimeout, c.agent.Ports, &agentv1.PortsRequest{})
	if err != nil {
		return nil, err
	}
	ports := make([]ListeningPort, 0, len(r.Ports))
	for _, p := range r.Ports {
		addr, err := netip.ParseAddr(p.Address)
		if err != nil {
			continue // a guest may say what it likes
		}
		ports = append(
			ports,
			ListeningPort{Network: p.Network, Address: netip.AddrPortFrom(addr, uint16(p.Port)), PID: int(p.Pid), Process: p.Process},
		)
	}
	return ports, nil
}

// Sync writes what is dirty in the guest to its disks.
func (c *Client) Sync(ctx context.Context) error {
	_, err := unary(ctx, "sync guest", syncTimeout, c.agent.Sync, &agentv1.SyncRequest{})
	return err
}

// Shutdown syncs the guest's disks and asks its init to end it, by a reset; force resets it at once
// after the sync. It returns when that has begun: the VMM tells when the VM has ended.
// ErrUnreachable can mean that it ended before its answer was out.
func (c *Client) Shutdown(ctx context.Context, force bool) error {
	_, err := unary(ctx, "shut guest down", syncTimeout, c.agent.Shutdown, &agentv1.ShutdownRequest{Force: force})
	return err
}

// SetTime sets the guest's wall clock.
func (c *Client) SetTime(ctx context.Context, t time.Time) error {
	_, err := unary(ctx, "set guest's time", callTimeout, c.agent.SetTime, &agentv1.SetTimeRequest{UnixNanoseconds: t.UnixNano()})
	return err
}

// AddEntropy feeds the guest's random number generator, with at most 4096 bytes, and has it use
// them at once.
func (c *Client) AddEntropy(ctx context.Context, data []byte) error {
	_, err := unary(ctx, "add guest's entropy", callTimeout, c.agent.AddEntropy, &agentv1.AddEntropyRequest{Data: data})
	return err
}

// Identity is who a guest is, and its network. All of it counts: a network that the guest was given
// earlier and that is not here is taken away.
type Identity struct {
	Hostname  string
	MachineID string // 32 lower-case hex digits; empty leaves it alone
	Network   Network
}

// Network is the configuration of a guest's one card. The zero value is none.
type Network struct {
	MAC         net.HardwareAddr // empty keeps the card's
	Address     netip.Prefix
	Gateway     netip.Addr
	Address6    netip.Prefix
	Gateway6    netip.Addr
	Nameservers []netip.Addr // IPv4, at most 3; none leaves resolv.conf alone
	Search      string
	MTU         int // in bytes; 0 keeps the card's
}

// Configure tells a running guest who it is now. It can be repeated, and another call puts right
// what one that failed left half-done. It is for a guest that was made of another one's memory,
// before anybody else may reach it.
func (c *Client) Configure(ctx context.Context, i Identity) error {
	request := &agentv1.ConfigureRequest{Hostname: i.Hostname, MachineId: i.MachineID}
	if n := i.Network; n.Address.IsValid() {
		request.Network = &agentv1.Network{
			Mac: n.MAC.String(), Address: text(n.Address), Gateway: text(n.Gateway), Address6: text(n.Address6),
			Gateway6: text(n.Gateway6), Search: n.Search, Mtu: uint32(n.MTU),
		}
		for _, server := range n.Nameservers {
			request.Network.Nameservers = append(request.Network.Nameservers, server.String())
		}
	}
	_, err := unary(ctx, "configure guest", configureTimeout, c.agent.Configure, request)
	return err
}

// text is empty for an address that is none.
func text[A interface {
	IsValid() bool
	String() string
}](address A) string {
	if !address.IsValid() {
		return ""
	}
	return address.String()
}

// unary makes one call within timeout, unless that is 0.
func unary[Q, R any](
	ctx context.Context,
	name string,
	timeout time.Duration,
	call func(context.Context, *Q) (*R, error),
	request *Q,
) (*R, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	response, err := call(ctx, request)
	return response, fromAgent(ctx, name, err)
}
