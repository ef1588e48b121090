package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"banger/internal/network"
)

const (
	// maxServiceConns is how many connections one VM may have to them: each takes two descriptors of the keeper.
	maxServiceConns = 128
	// serviceDialTimeout is how long a service on the host's own loopback may take to answer.
	serviceDialTimeout = 5 * time.Second
)

// Services lets VMs reach ports of the host's loopback at the gateway's address. It listens inside the namespace and
// dials in the host's: no packet has a way from the one to the other. The rules let a VM alone to the ports that are
// its own; services looks again, and closes connections whose VM may no more.
type Services struct {
	open    func(at netip.AddrPort) (net.Listener, error) // a socket that listens inside
	gateway netip.Addr
	log     *slog.Logger

	mu        sync.Mutex // guards what follows
	allowed   map[netip.AddrPort]bool
	listeners map[uint16]net.Listener
	conns     map[*net.TCPConn]netip.AddrPort // the VM's end of each, by whose address it is and which service it asked
}

// NewServices has no service yet; open opens a socket that listens inside.
func NewServices(open func(at netip.AddrPort) (net.Listener, error), gateway netip.Addr, log *slog.Logger) *Services {
	return &Services{
		open: open, gateway: gateway, log: log,
		listeners: map[uint16]net.Listener{}, conns: map[*net.TCPConn]netip.AddrPort{},
	}
}

// Serve makes the services those of the ports' policies. When it fails, those that it could not open are missing.
func (s *Services) Serve(ports []network.Port) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = map[netip.AddrPort]bool{}
	wanted := map[uint16]bool{}
	for _, p := range ports {
		for _, port := range p.HostServices {
			s.allowed[netip.AddrPortFrom(p.Address, uint16(port))] = true
			wanted[uint16(port)] = true
		}
	}
	for port, listener := range s.listeners {
		if !wanted[port] {
			listener.Close()
			delete(s.listeners, port)
		}
	}
	for conn, asked := range s.conns {
		if !s.allowed[asked] {
			conn.Close()
		}
	}
	var errs []error
	for port := range wanted {
		if s.listeners[port] != nil {
			continue
		}
		listener, err := s.open(netip.AddrPortFrom(s.gateway, port))
		if err != nil {
			errs = append(errs, fmt.Errorf("open host service %d: %w", port, err))
			continue
		}
		s.listeners[port] = listener
		go s.accept(listener, port)
	}
	return errors.Join(errs...)
}

// Close ends all of it.
func (s *Services) Close() { _ = s.Serve(nil) } // opens nothing, so nothing fails

func (s *Services) accept(listener net.Listener, port uint16) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("a host service ended", "port", port, "err", err)
			return
		}
		go s.carry(conn.(*net.TCPConn), port)
	}
}

// carry joins a VM's connection with one to the host's service.
func (s *Services) carry(vm *net.TCPConn, port uint16) {
	defer vm.Close()
	if !s.enter(vm, port) {
		return
	}
	defer s.leave(vm)
	ctx, cancel := context.WithTimeout(context.Background(), serviceDialTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		_ = vm.SetLinger(0) // a reset: nothing listens
		return
	}
	host := conn.(*net.TCPConn)
	defer host.Close()
	join(host, vm)
}

// enter notes a connection of a VM that may have it.
func (s *Services) enter(conn *net.TCPConn, port uint16) bool {
	remote, ok := netip.AddrFromSlice(conn.RemoteAddr().(*net.TCPAddr).IP)
	if !ok {
		return false
	}
	asked := netip.AddrPortFrom(remote.Unmap(), port)
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for _, other := range s.conns {
		if other.Addr() == asked.Addr() {
			count++
		}
	}
	if !s.allowed[asked] || count >= maxServiceConns {
		_ = conn.SetLinger(0)
		return false
	}
	s.conns[conn] = asked
	return true
}

func (s *Services) leave(conn *net.TCPConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}
