// Package vsockmux carries vsock-like connections over one byte stream, such as a virtio-serial
// port.
//
// firecracker-qemu holds the host's end ([Host]) of the port called [PortName], the agent in the
// guest holds the other ([Guest]). Either end dials ports of the other. A connection can be closed
// one way ([Conn.CloseWrite]) for as long as it lives, and a full Close makes the peer's writes
// fail. Data may follow the request for a connection at once ([Session.Open]): in an emulated guest
// each answer that is awaited costs milliseconds.
//
// A session has no keepalive and no write timeout: a paused VM is silent for as long as it is
// paused. Memory is bounded by two windows per connection and by [MaxConns] connections.
package vsockmux

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// PortName is the virtio-serial port's name in the guest (/sys/class/virtio-ports/*/name).
const PortName = "firecracker.vsock"

// MaxConns is how many connections a session carries at once, as many as Firecracker's vsock.
const MaxConns = 1023

// window is what a peer may send on one connection before it is read.
const window = 256 << 10

var (
	// ErrRefused is the error of a dialer when nothing listens on the port at the other end.
	ErrRefused = errors.New("vsockmux: connection refused")
	// ErrSessionEnded is the error of everything that needs a session which has ended.
	ErrSessionEnded = errors.New("vsockmux: session ended")
	// ErrTooManyConns is the error of a dialer when the session carries MaxConns connections
	// already.
	ErrTooManyConns = errors.New("vsockmux: too many connections")
)

// A Session is one end of the byte stream. Its methods may be called concurrently.
type Session struct {
	carrier io.ReadWriteCloser
	out     *outbox
	done    chan struct{} // closed by end
	once    sync.Once
	wg      sync.WaitGroup
	serving chan struct{} // closed by the first Handle or Listen

	mu        sync.Mutex
	isServing bool
	listeners map[uint32]*listener
	unclaimed func(*Request)
	conns     map[uint32]*Conn // those that are not over
	lastID    uint32           // of a connection that was dialed here
}

// Host makes the VMM's end. It waits for the guest's hello until ctx ends. conn belongs to the
// session from the call on: it is closed when Host returns an error and when the session ends.
func Host(ctx context.Context, conn io.ReadWriteCloser) (*Session, error) {
	return open(ctx, conn, func(r *bufio.Reader) error { return helloHost(r, conn) }, 1)
}

// Guest makes the guest's end. It says hello until the host answers or ctx ends. conn belongs to
// the session from the call on, as with Host. A guest whose session ends opens the port again and
// calls Guest again.
func Guest(ctx context.Context, conn io.ReadWriteCloser) (*Session, error) {
	return open(ctx, conn, func(r *bufio.Reader) error { return helloGuest(ctx, r, conn) }, 2)
}

// open makes an end whose own connections have ids of firstID's kind, odd or even.
func open(ctx context.Context, conn io.ReadWriteCloser, hello func(*bufio.Reader) error, firstID uint32) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	// The reader goes on to the session: it may already hold bytes behind the hello.
	reader := bufio.NewReaderSize(conn, 64<<10)
	err := hello(reader)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	s := &Session{
		carrier: conn, out: newOutbox(), done: make(chan struct{}), serving: make(chan struct{}),
		listeners: map[uint32]*listener{}, conns: map[uint32]*Conn{}, lastID: firstID - 2,
	}
	s.wg.Go(func() {
		defer s.end()
		_ = s.readFrom(reader) // whatever ended it, the session has ended
	})
	s.wg.Go(func() {
		defer s.end()
		_ = s.out.writeTo(conn, s.done)
	})
	return s, nil
}

// Open asks for a connection to port at the other end. What is written to it goes along with the
// request; whether it was accepted is told by Conn.Accepted, which must be called. What is written
// to a port that refuses is lost.
func (s *Session) Open(port uint32) (*Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended() {
		return nil, ErrSessionEnded
	}
	if len(s.conns) >= MaxConns {
		return nil, ErrTooManyConns
	}
	s.lastID += 2
	for s.conns[s.lastID] != nil { // after four billion
		s.lastID += 2
	}
	c := newConn(s, s.lastID, port)
	s.conns[c.id] = c
	s.out.add(header{kind: frameOpen, id: c.id}, binary.BigEndian.AppendUint32(nil, port)...)
	return c, nil
}

// Dial connects to port at the other end. The error is ErrRefused when nothing listens there, and
// ctx's when it ends first.
func (s *Session) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := s.Open(port)
	if err == nil {
		err = c.Accepted(ctx)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the session and all its connections, and waits for its goroutines.
func (s *Session) Close() error {
	s.end()
	s.wg.Wait()
	return nil
}

// Done is closed when the session has ended, by Close or because the stream broke.
func (s *Session) Done() <-chan struct{} { return s.done }

func (s *Session) end() {
	s.once.Do(func() {
		close(s.done)
		s.carrier.Close()
	})
}

func (s *Session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// readFrom takes the peer's frames until it breaks the protocol or r fails.
func (s *Session) readFrom(r *bufio.Reader) error {
	for {
		h, err := readHeader(r)
		if err != nil {
			return err
		}
		if h.kind == frameData {
			err = s.passData(r, h)
		} else {
			err = s.control(r, h)
		}
		if err != nil {
			return fmt.Errorf("connection %d: %w", h.id, err)
		}
	}
}

// passData hands out the data of a frame as it comes.
func (s *Session) passData(r *bufio.Reader, h header) error {
	c := s.conn(h.id)
	for h.n > 0 {
		if _, err := r.Peek(1); err != nil {
			return err
		}
		data, err := r.Peek(min(h.n, r.Buffered()))
		if err != nil {
			return err
		}
		if c != nil {
			if err := c.receive(data); err != nil {
				return err
			}
		}
		if _, err := r.Discard(len(data)); err != nil {
			return err
		}
		h.n -= len(data)
	}
	return nil
}

// control does what a frame without data says.
func (s *Session) control(r *bufio.Reader, h header) error {
	if s.out.overfull() {
		return errNotRead
	}
	if h.kind == frameOpen {
		var port [portBytes]byte
		if _, err := io.ReadFull(r, port[:]); err != nil {
			return err
		}
		return s.receive(h.id, binary.BigEndian.Uint32(port[:]))
	}
	c := s.conn(h.id)
	if c == nil {
		return nil
	}
	switch h.kind {
	case frameAccept, frameRefuse:
		return c.answer(h.kind == frameAccept)
	case frameCredit:
		return c.credit(h.n)
	case frameEnd:
		c.peerEnds()
	case frameClose:
		c.peerCloses()
	}
	return nil
}

func (s *Session) conn(id uint32) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[id]
}
