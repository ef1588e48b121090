package vsockmux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// Addr is a port at one end of a session.
type Addr struct{ Port uint32 }

// Network is "vsock".
func (Addr) Network() string { return "vsock" }

func (a Addr) String() string { return fmt.Sprintf("port %d", a.Port) }

// A Conn is one connection: a net.Conn which can also be closed one way.
type Conn struct {
	session *Session
	stream  *yamux.Stream
	addr    Addr

	reading sync.Mutex // held by the one Read at work, and at last by drain

	mu      sync.Mutex
	sawEOF  bool // the peer has closed its write side
	stopped bool // the peer reads no more
	closed  bool
}

var _ net.Conn = (*Conn)(nil)

// newConn takes over one reservation of the session.
func (s *Session) newConn(stream *yamux.Stream, addr Addr) *Conn {
	c := &Conn{session: s, stream: stream, addr: addr}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[stream.StreamID()] = c
	return c
}

// Read returns io.EOF after the peer's CloseWrite or Close, and ErrSessionEnded, never io.EOF, when the session ended.
func (c *Conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := c.stream.Read(b)
	if err == nil {
		return n, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return n, net.ErrClosed
	case c.sawEOF:
		return n, io.EOF
	case c.session.mux.IsClosed():
		return n, ErrSessionEnded
	case errors.Is(err, io.EOF):
		c.sawEOF = true
		return n, io.EOF
	case errors.Is(err, yamux.ErrTimeout):
		return n, os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrConnectionReset):
		return n, syscall.ECONNRESET
	}
	return n, err
}

// Write fails with EPIPE when the peer has closed the connection.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.writeError(nil); err != nil {
		return 0, err
	}
	n, err := c.stream.Write(b)
	if err != nil {
		err = c.writeError(err)
	}
	return n, err
}

// writeError says why no more can be written; nil when err is nil and nothing stands against it.
func (c *Conn) writeError(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.session.mux.IsClosed():
		return ErrSessionEnded
	case c.stopped:
		return syscall.EPIPE
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrStreamClosed):
		return net.ErrClosed
	case errors.Is(err, yamux.ErrConnectionReset):
		return syscall.ECONNRESET
	}
	return err
}

// CloseWrite gives the peer EOF once it has read what was written. The other direction stays open without limit.
func (c *Conn) CloseWrite() error {
	if c.isClosed() {
		return net.ErrClosed
	}
	// yamux's Close is just that: it sends FIN and goes on reading.
	return c.stream.Close()
}

// Close closes both directions. What was written is still delivered; the peer's blocked and later writes fail with EPIPE.
//
// yamux has no way to tell the peer that nobody reads any more, so its writes would block for ever: the control stream carries the ids of the streams
// concerned. The connection counts against MaxConns until the peer has closed its side too.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	sawEOF := c.sawEOF
	c.mu.Unlock()

	c.stream.SetReadDeadline(time.Unix(0, 1))
	err := c.stream.Close()
	go c.drain(sawEOF)
	return err
}

// drain throws away what the peer sends until it closes its side or the session ends.
func (c *Conn) drain(sawEOF bool) {
	id := c.stream.StreamID()
	if !sawEOF {
		// An error means that the session has ended, and then so does the copy.
		c.session.stop(id)
		c.reading.Lock()
		c.stream.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{c.stream})
		c.reading.Unlock()
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	delete(c.session.conns, id)
	c.session.count--
}

// stop tells the peer that nobody reads stream id any more.
func (s *Session) stop(id uint32) {
	_, _ = s.control.Write(binary.BigEndian.AppendUint32(nil, id)) // fails when the session has ended, which ends the peer too
}

// stopWriting is the peer's stop: it ends a blocked Write and closes this side.
func (c *Conn) stopWriting() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.stream.SetWriteDeadline(time.Unix(0, 1))
	c.stream.Close()
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// LocalAddr is the port of the connection, the same at both ends: the dialing side has no port of its own.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr is LocalAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.addr }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds Read; the zero time is no bound.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.stream.SetReadDeadline(t)
}

// SetWriteDeadline bounds Write; the zero time is no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if c.stopped {
		return nil // the past deadline that stopWriting has set must stay
	}
	return c.stream.SetWriteDeadline(t)
}
