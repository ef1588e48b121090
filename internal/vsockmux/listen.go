package vsockmux

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// backlog is how many accepted connections wait for a listener's Accept; more are refused.
const backlog = 64

var errID = errors.New("it has no id of its own")

// A Request is the peer's wish to connect to Port. It ends with one call of Accept or Refuse.
type Request struct {
	Port uint32
	conn *Conn
}

// Accept answers yes. What the peer has sent behind its request is there to be read.
func (r *Request) Accept() (net.Conn, error) {
	if r.conn.session.ended() {
		return nil, ErrSessionEnded
	}
	r.conn.session.out.add(header{kind: frameAccept, id: r.conn.id})
	return r.conn, nil
}

// Refuse answers no: the peer's Dial returns ErrRefused.
func (r *Request) Refuse() { r.conn.refuse() }

// Handle has f called, each time in a goroutine of its own, for requests to ports that nobody
// listens on. Without it they are refused. Requests that arrive before the first call of Handle or
// Listen wait for it. Close waits for f to return: f ends when its connection does.
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

// serve lets the requests through that wait. s.mu is held.
func (s *Session) serve() {
	if !s.isServing {
		s.isServing = true
		close(s.serving)
	}
}

// receive takes the peer's wish for a connection. It is called by the one reader.
func (s *Session) receive(id, port uint32) error {
	s.mu.Lock()
	if s.conns[id] != nil || id%2 == s.lastID%2 {
		s.mu.Unlock()
		return errID
	}
	c := newConn(s, id, port)
	if len(s.conns) >= MaxConns {
		s.mu.Unlock()
		c.refuse()
		return nil
	}
	s.conns[id] = c
	serving := s.isServing
	s.mu.Unlock()
	r := &Request{Port: port, conn: c}
	if serving {
		s.dispatch(r)
		return nil
	}
	s.wg.Go(func() {
		select {
		case <-s.serving:
			s.dispatch(r)
		case <-s.done:
		}
	})
	return nil
}

// dispatch hands a request to whoever it is for. A goroutine of the session calls it.
func (s *Session) dispatch(r *Request) {
	s.mu.Lock()
	l, unclaimed := s.listeners[r.Port], s.unclaimed
	s.mu.Unlock()
	switch {
	case l != nil:
		l.enqueue(r)
	case unclaimed != nil:
		s.wg.Go(func() { unclaimed(r) })
	default:
		r.Refuse()
	}
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
			// A peer that has gone meanwhile is no reason to stop listening; the end of the session
			// is, and the next turn sees it.
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
