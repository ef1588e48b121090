package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"banger/internal/accept"
	"banger/internal/network"
)

const (
	// maxServiceConns is how many connections one VM may have to them: each takes two descriptors
	// of the keeper.
	maxServiceConns = 128
	// serviceDialTimeout is how long a service on the host's own loopback may take to answer.
	serviceDialTimeout = 5 * time.Second
)

// Services lets VMs reach ports of the host's loopback at the gateway's address. It listens inside
// the namespace and dials in the host's: no packet has a way from the one to the other. The rules
// let a VM alone to the ports that are its own; services looks again, and closes connections whose
// VM may no more.
type Services struct {
	open    func(at netip.AddrPort) (net.Listener, error) // a socket that listens inside
	gateway netip.Addr
	log     *slog.Logger
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	shortage sync.Once // of descriptors or memory: logged once, for guests could fill a log

	mu        sync.Mutex // guards what follows; never held while a socket is opened
	allowed   map[netip.AddrPort]bool
	listeners map[uint16]net.Listener
	conns     map[*net.TCPConn]netip.AddrPort // the VM's end of each, by whose address it is and which service it asked
}

// NewServices has no service yet; open opens a socket that listens inside.
func NewServices(open func(at netip.AddrPort) (net.Listener, error), gateway netip.Addr, log *slog.Logger) *Services {
	s := &Services{
		open: open, gateway: gateway, log: log,
		listeners: map[uint16]net.Listener{}, conns: map[*net.TCPConn]netip.AddrPort{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Apply makes the services those of the endpoints' policies, one call at a time. It ends with the
// first that it cannot open: a holder that stands still would be waited for once for each.
func (s *Services) Apply(endpoints []network.Endpoint) error {
	for _, port := range s.allow(endpoints) {
		listener, err := s.open(netip.AddrPortFrom(s.gateway, port))
		if err != nil {
			return fmt.Errorf("open host service %d: %w", port, err)
		}
		s.listen(listener, port)
	}
	return nil
}

// allow ends what the endpoints' policies do not have, and returns the services that have no
// listener yet.
func (s *Services) allow(endpoints []network.Endpoint) (missing []uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = map[netip.AddrPort]bool{}
	wanted := map[uint16]bool{}
	for _, e := range endpoints {
		for _, port := range e.HostServices {
			s.allowed[netip.AddrPortFrom(e.Address, uint16(port))] = true
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
	for port := range wanted {
		if s.listeners[port] == nil {
			missing = append(missing, port)
		}
	}
	slices.Sort(missing)
	return missing
}

func (s *Services) listen(listener net.Listener, port uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		listener.Close()
		return
	}
	s.listeners[port] = listener
	s.running.Go(func() { s.accept(listener, port) })
}

// Close ends all of it and waits for that.
func (s *Services) Close() {
	s.cancel()
	s.allow(nil)
	s.running.Wait()
}

// accept takes VMs' connections until the listener has ended. One that ended by itself is opened
// anew by the next Apply.
func (s *Services) accept(listener net.Listener, port uint16) {
	defer s.forget(listener, port)
	for {
		conn, err := accept.Next(s.ctx, listener, func(err error) {
			s.shortage.Do(func() { s.log.Error("take a machine's connection to a host service", "port", port, "err", err) })
		})
		if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil && err != nil {
			return
		}
		if err != nil {
			s.log.Error("a host service ended", "port", port, "err", err)
			return
		}
		s.running.Go(func() { s.carry(conn.(*net.TCPConn), port) })
	}
}

func (s *Services) forget(listener net.Listener, port uint16) {
	s.mu.Lock()
	if s.listeners[port] == listener { // another may have come in its place
		delete(s.listeners, port)
	}
	s.mu.Unlock()
	listener.Close()
}

// carry joins a VM's connection with one to the host's service.
func (s *Services) carry(vm *net.TCPConn, port uint16) {
	defer vm.Close()
	if !s.add(vm, port) {
		return
	}
	defer s.remove(vm)
	ctx, cancel := context.WithTimeout(s.ctx, serviceDialTimeout)
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

// add notes a connection of a VM that may have it.
func (s *Services) add(conn *net.TCPConn, port uint16) bool {
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

func (s *Services) remove(conn *net.TCPConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}
