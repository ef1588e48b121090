package relay

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"banger/internal/network"
)

// listener returns what it is given, a connection or an error, and records its end.
type listener struct {
	net.Listener
	next   chan any
	closed chan struct{}
}

func newListener() *listener {
	return &listener{next: make(chan any, 8), closed: make(chan struct{}, 8)}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case next := <-l.next:
		if conn, ok := next.(*net.TCPConn); ok {
			return conn, nil
		}
		return nil, &net.OpError{Op: "accept", Err: next.(error)}
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	select {
	case l.closed <- struct{}{}:
	default:
	}
	return nil
}

// hello is a service of this host that greets.
func hello(t *testing.T) (port int) {
	t.Helper()
	service, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { service.Close() })
	go func() {
		for {
			conn, err := service.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	return service.Addr().(*net.TCPAddr).Port
}

// Guests can use up the descriptors of the process, and connections that are gone before they are
// taken are an error on some kernels. Neither ends a service for all of them.
func TestServiceOutlivesShortage(t *testing.T) {
	inside := newListener()
	open := func(netip.AddrPort) (net.Listener, error) { return inside, nil }
	s := NewServices(open, netip.MustParseAddr("172.30.0.1"), slog.New(slog.DiscardHandler))
	defer s.Close()
	vm := network.Endpoint{Address: netip.MustParseAddr("127.0.0.1"), Policy: network.Policy{HostServices: []int{hello(t)}}}
	must(t, s.Apply([]network.Endpoint{vm}))
	inside.next <- syscall.EMFILE
	inside.next <- syscall.ECONNABORTED
	guest, theirs := tcpPair(t)
	inside.next <- theirs
	if got, err := io.ReadAll(guest); string(got) != "hello" {
		t.Errorf("got %q, %v, want the service's greeting", got, err)
	}
}

// A listener that has ended by itself is opened anew when the network changes next.
func TestServiceThatEndedIsOpenedAnew(t *testing.T) {
	opened := make(chan *listener, 8)
	open := func(netip.AddrPort) (net.Listener, error) {
		l := newListener()
		opened <- l
		return l, nil
	}
	s := NewServices(open, netip.MustParseAddr("172.30.0.1"), slog.New(slog.DiscardHandler))
	defer s.Close()
	endpoints := []network.Endpoint{{Address: netip.MustParseAddr("127.0.0.1"), Policy: network.Policy{HostServices: []int{80}}}}
	must(t, s.Apply(endpoints))
	first := <-opened
	must(t, s.Apply(endpoints))
	if len(opened) != 0 {
		t.Fatal("a service that listens was opened again")
	}
	first.next <- syscall.EINVAL
	<-first.closed
	must(t, s.Apply(endpoints))
	if len(opened) != 1 {
		t.Error("the service was not opened again")
	}
}

// The holder may stand still while it is asked for a socket. Connections that others have are taken
// and cut meanwhile.
func TestServicesWhileOneIsOpened(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan error)
	inside := newListener()
	open := func(at netip.AddrPort) (net.Listener, error) {
		if at.Port() == 81 {
			close(asked)
			return nil, <-answer
		}
		return inside, nil
	}
	s := NewServices(open, netip.MustParseAddr("172.30.0.1"), slog.New(slog.DiscardHandler))
	defer s.Close()
	port := hello(t)
	vm := network.Endpoint{Address: netip.MustParseAddr("127.0.0.1"), Policy: network.Policy{HostServices: []int{port}}}
	must(t, s.Apply([]network.Endpoint{vm}))
	served := make(chan error, 1)
	vm.HostServices = []int{port, 81}
	go func() { served <- s.Apply([]network.Endpoint{vm}) }()
	<-asked
	guest, theirs := tcpPair(t)
	inside.next <- theirs
	must(t, guest.SetReadDeadline(time.Now().Add(5*time.Second)))
	if got, err := io.ReadAll(guest); string(got) != "hello" {
		t.Errorf("got %q, %v, want the service's greeting", got, err)
	}
	answer <- errors.New("no")
	if err := <-served; err == nil {
		t.Error("a service that could not be opened is no error")
	}
}

// A holder that stands still is waited for once, not once for each service.
func TestServicesEndWithTheFirstThatFails(t *testing.T) {
	var asked []uint16
	failure := errors.New("failure")
	open := func(at netip.AddrPort) (net.Listener, error) {
		asked = append(asked, at.Port())
		if at.Port() == 81 {
			return nil, failure
		}
		return newListener(), nil
	}
	s := NewServices(open, netip.MustParseAddr("172.30.0.1"), slog.New(slog.DiscardHandler))
	defer s.Close()
	vm := network.Endpoint{Policy: network.Policy{HostServices: []int{82, 81, 80, 83}}}
	for range 2 { // the second asks for what the first has not
		if err := s.Apply([]network.Endpoint{vm}); !errors.Is(err, failure) {
			t.Errorf("got %v, want the failure", err)
		}
	}
	if want := []uint16{80, 81, 81}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}
