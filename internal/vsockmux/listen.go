package vsockmux

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// The acceptor's answer to the port number.
const (
	accepted byte = 0
	refused  byte = 1
)

// backlog is how many accepted connections wait for a listener's Accept; more are refused.
const backlog = 64

// A Request is the peer's wish to connect to Port. It ends with one call of Accept or Refuse.
type Request struct {
	Port    uint32
	session *Session
	stream  *yamux.Stream
}

// Accept answers yes.
func (r *Request) Accept() (net.Conn, error) {
	conn := r.session.newConn(r.stream, Addr{Port: r.Port})
	if _, err := r.stream.Write([]byte{accepted}); err != nil {
		conn.Close()
		return nil, r.session.cause(err)
	}
	return conn, nil
}

// Refuse answers no: the peer's Dial returns ErrRefused.
func (r *Request) Refuse() {
	conn := r.session.newConn(r.stream, Addr{Port: r.Port})
	_, _ = r.stream.Write([]byte{refused}) // fails when the session has ended, which is a refusal too
	conn.Close()
}

// Handle has f called, each time in a goroutine of its own, for requests to ports that nobody listens on. Without it they are refused.
// Requests that arrive before the first call of Handle or Listen wait for it. Close waits for f to return: f ends when its connection does.
func (s *Session) Handle(f func(*Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unclaimed = f
	s.serve()
}

// Listen accepts connections to port. A second listener on the same port is an error.
func (s *Session) Listen(port uint32) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners[port] != nil {
		return nil, fmt.Errorf("listen on vsock port %d: already in use", port)
	}
	l := &listener{session: s, port: port, queue: make(chan *Request, backlog), closed: make(chan struct{})}
	s.listeners[port] = l
	s.serve()
	return l, nil
}

// serve starts the accepting goroutine once. s.mu is held.
func (s *Session) serve() {
	if s.serving {
		return
	}
	s.serving = true
	s.wg.Go(func() {
		for {
			stream, err := s.mux.AcceptStream()
			if err != nil {
				return
			}
			if err := s.reserve(); err != nil {
				// No reservation, so no Conn: the dialer takes a bare close for a refusal.
				stream.Close()
				continue
			}
			s.wg.Add(1)
			go s.receive(stream)
		}
	})
}

// receive reads the port of a new stream and hands the request on.
func (s *Session) receive(stream *yamux.Stream) {
	defer s.wg.Done()
	port, err := readPort(stream)
	if err != nil {
		s.newConn(stream, Addr{}).Close()
		return
	}
	r := &Request{Port: port, session: s, stream: stream}
	s.mu.Lock()
	l, unclaimed := s.listeners[port], s.unclaimed
	s.mu.Unlock()
	switch {
	case l != nil:
		l.enqueue(r)
	case unclaimed != nil:
		unclaimed(r)
	default:
		r.Refuse()
	}
}

type deadlineReader interface {
	io.Reader
	SetReadDeadline(time.Time) error
}

func readPort(r deadlineReader) (uint32, error) {
	if err := r.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return 0, err
	}
	var port [4]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return 0, fmt.Errorf("read port: %w", err)
	}
	return binary.BigEndian.Uint32(port[:]), r.SetReadDeadline(time.Time{})
}

type listener struct {
	session *Session
	port    uint32
	queue   chan *Request
	closed  chan struct{}
	once    sync.Once
}

func (l *listener) enqueue(r *Request) {
	select {
	case <-l.closed:
		r.Refuse()
	case l.queue <- r:
	default:
		r.Refuse()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		select {
		case <-l.closed:
			return nil, net.ErrClosed
		case <-l.session.Done():
			return nil, ErrSessionEnded
		case r := <-l.queue:
			// A peer that has gone meanwhile is no reason to stop listening; the end of the session is, and the next turn sees it.
			if conn, err := r.Accept(); err == nil {
				return conn, nil
			}
		}
	}
}

// Close refuses what is still waiting.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.session.mu.Lock()
		delete(l.session.listeners, l.port)
		l.session.mu.Unlock()
		close(l.closed)
		for {
			select {
			case r := <-l.queue:
				r.Refuse()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return Addr{Port: l.port} }
