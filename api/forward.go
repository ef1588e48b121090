package api

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol is what a forward carries.
type Protocol string

// Both protocols.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Forward makes a port of a machine reachable at an address of the host, for as long as the machine
// runs.
type Forward struct {
	Protocol  Protocol   `json:"protocol,omitempty"`   // empty: tcp
	Host      netip.Addr `json:"host,omitzero"`        // empty: 127.0.0.1
	HostPort  uint16     `json:"host_port,omitempty"`  // 0: a free one is chosen
	GuestPort uint16     `json:"guest_port,omitempty"` // on whichever of the machine's addresses has a listener
	Error     string     `json:"error,omitempty"`      // why it does not work now; from the daemon alone
}

// AddForward asks for a forward.
type AddForward struct {
	Machine   string     `json:"-" path:"machine"`
	Protocol  Protocol   `json:"protocol,omitempty"` // the rest as Forward has it
	Host      netip.Addr `json:"host,omitzero"`
	HostPort  uint16     `json:"host_port,omitempty"`
	GuestPort uint16     `json:"guest_port,omitempty"`
}

// Forward returns the forward that is asked for.
func (a AddForward) Forward() Forward {
	return Forward{Protocol: a.Protocol, Host: a.Host, HostPort: a.HostPort, GuestPort: a.GuestPort}
}

// RemoveForward names a forward by what it listens on.
type RemoveForward struct {
	Machine  string     `json:"-" path:"machine"`
	Protocol Protocol   `json:"-" query:"protocol"` // empty: tcp
	Host     netip.Addr `json:"-" query:"host"`     // empty: 127.0.0.1
	HostPort uint16     `json:"-" query:"host_port"`
}

// Port is a socket of a machine that waits for peers.
type Port struct {
	Network string `json:"network"` // tcp, tcp6, udp, udp6
	Address string `json:"address"` // IP address in the machine
	Port    uint16 `json:"port"`
	PID     int    `json:"pid,omitempty"` // in the machine; 0 when not known
	Process string `json:"process,omitempty"`
	// Reach lists where the host reaches it, as ADDRESS:PORT: its forwards, and the machine's own
	// address where the host has a route to it.
	Reach []string `json:"reach,omitempty"`
}

// WithDefaults returns the forward with what was left out: tcp, and the host's loopback alone.
func (f Forward) WithDefaults() Forward {
	if f.Protocol == "" {
		f.Protocol = TCP
	}
	if !f.Host.IsValid() {
		f.Host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return f
}

// ParseForward reads [ADDR:]HOST:GUEST[/udp], or a single port that is the same on both sides. An
// IPv6 ADDR stands in brackets. HOST 0 asks for any free port.
func ParseForward(text string) (Forward, error) {
	bad := Errorf(CodeInvalid, "%q is no forward", text).WithHint("write it as [ADDR:]HOST:GUEST[/udp], for example 8080:80")
	rest, protocol, given := strings.Cut(text, "/")
	if given && protocol == "" {
		return Forward{}, bad
	}
	f := Forward{Protocol: Protocol(protocol)}.WithDefaults()
	if f.Protocol != TCP && f.Protocol != UDP {
		return Forward{}, bad
	}
	host, guest := rest, rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host, guest = rest[:i], rest[i+1:]
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host[:i], "["), "]"))
		if err != nil || address.Zone() != "" || address.Is6() != strings.HasPrefix(host, "[") {
			return Forward{}, bad
		}
		f.Host, host = address, host[i+1:]
	}
	hostPort, hostErr := strconv.ParseUint(host, 10, 16)
	guestPort, guestErr := strconv.ParseUint(guest, 10, 16)
	if hostErr != nil || guestErr != nil || guestPort == 0 {
		return Forward{}, bad
	}
	f.HostPort, f.GuestPort = uint16(hostPort), uint16(guestPort)
	return f, nil
}

// Listen is where the host listens, as net.Listen takes it.
func (f Forward) Listen() string {
	return net.JoinHostPort(f.Host.String(), strconv.Itoa(int(f.HostPort)))
}

// String is what ParseForward reads.
func (f Forward) String() string {
	text := f.Listen() + ":" + strconv.Itoa(int(f.GuestPort))
	if f.Protocol == UDP {
		text += "/udp"
	}
	return text
}
