package vsockmux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Addr is a port at one end of a session.
type Addr struct{ Port uint32 }

// Network is "vsock".
func (Addr) Network() string { return "vsock" }

func (a Addr) String() string { return fmt.Sprintf("port %d", a.Port) }

// A Conn is one connection: a net.Conn which can also be closed one way.
type Conn struct {
	session  *Session
	id       uint32
	addr     Addr
	answered chan struct{} // closed when the peer has said yes or no
	readable chan struct{} // has one when Read may have something to return
	writable chan struct{} // and Write

	readDeadline, writeDeadline deadline

	reading, writing sync.Mutex // held by the one call at work; before mu

	mu      sync.Mutex // before outbox.mu
	in      bytes.Buffer
	unread  int // what the peer may not send again yet: read, and not told
	window  int // what may be sent to the peer
	refused bool
	closed  bool // by Close
	left    bool // the peer has closed it
	sawEnd  bool // the peer writes no more
	sentEnd bool
}

var _ net.Conn = (*Conn)(nil)

func newConn(s *Session, id, port uint32) *Conn {
	return &Conn{
		session: s, id: id, addr: Addr{Port: port}, window: window,
		answered: make(chan struct{}), readable: make(chan struct{}, 1), writable: make(chan struct{}, 1),
	}
}

// Accepted waits for the peer's answer to Open. Unless its error is nil the connection is closed.
func (c *Conn) Accepted(ctx context.Context) error {
	var err error
	select {
	case <-c.answered:
		c.mu.Lock()
		if c.refused {
			err = ErrRefused
		}
		c.mu.Unlock()
	case <-c.session.done:
		err = ErrSessionEnded
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
	}
	return err
}

// Read returns io.EOF after the peer's CloseWrite or Close, and ErrSessionEnded, never io.EOF, when
// the session ended.
func (c *Conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for !c.readDeadline.over() {
		n, err := c.take(b)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		select {
		case <-c.readable:
		case <-c.session.done:
		case <-c.readDeadline.passed():
		}
	}
	return 0, c.unlessClosed(os.ErrDeadlineExceeded)
}

// take reads what is there: nothing and no error is that there may be more.
func (c *Conn) take(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.in.Len() > 0:
	case c.sawEnd && !c.refused:
		return 0, io.EOF
	case c.refused:
		return 0, ErrRefused
	case c.session.ended():
		return 0, ErrSessionEnded
	}
	n, _ := c.in.Read(b) // fails when there is nothing
	if c.unread += n; c.unread >= window/2 && !c.sawEnd {
		c.session.out.add(header{frameCredit, c.unread, c.id})
		c.unread = 0
	}
	return n, nil
}

// Write fails with EPIPE when the peer has closed the connection.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	sent := 0
	for !c.writeDeadline.over() {
		n, room, err := c.put(b[sent:])
		sent += n
		if err != nil || sent == len(b) {
			return sent, err
		}
		if n > 0 {
			continue
		}
		select {
		case <-room:
		case <-c.writable:
		case <-c.session.done:
		case <-c.writeDeadline.passed():
		}
	}
	return sent, c.unlessClosed(os.ErrDeadlineExceeded)
}

func (c *Conn) unlessClosed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return err
}

// put sends as much of b as may be sent. When that is nothing, room is what to wait for, besides
// c.writable.
func (c *Conn) put(b []byte) (n int, room <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return 0, nil, net.ErrClosed
	case c.session.ended():
		return 0, nil, ErrSessionEnded
	case c.left:
		return 0, nil, syscall.EPIPE
	case c.sentEnd:
		return 0, nil, net.ErrClosed
	}
	n = min(len(b), c.window, chunkBytes)
	if n == 0 {
		return 0, nil, nil
	}
	if room = c.session.out.addData(header{frameData, n, c.id}, b[:n]); room != nil {
		return 0, room, nil
	}
	c.window -= n
	return n, nil, nil
}

// CloseWrite gives the peer EOF once it has read what was written. The other direction stays open
// without limit.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	if !c.sentEnd {
		c.sentEnd = true
		c.session.out.add(header{kind: frameEnd, id: c.id})
	}
	over := c.sawEnd
	c.mu.Unlock()
	wake(c.writable)
	c.forget(over)
	return nil
}

// Close closes both directions. What was written is still delivered; the peer's blocked and later
// writes fail with EPIPE.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.in = bytes.Buffer{}
	if !c.sentEnd || !c.sawEnd {
		c.session.out.add(header{kind: frameClose, id: c.id})
	}
	c.mu.Unlock()
	c.readDeadline.set(time.Time{})
	c.writeDeadline.set(time.Time{})
	wake(c.readable)
	wake(c.writable)
	c.forget(true)
	return nil
}

// forget takes a connection that is over out of the session. What it has received can still be
// read.
func (c *Conn) forget(over bool) {
	if !over {
		return
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	delete(c.session.conns, c.id)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

var (
	errAnswer = errors.New("an answer that nobody asked for")
	errWindow = errors.New("more bytes than its window allows")
	errEnded  = errors.New("data behind its end")
)

// answer is the peer's yes or no to open.
func (c *Conn) answer(yes bool) error {
	c.mu.Lock()
	select {
	case <-c.answered:
		c.mu.Unlock()
		return errAnswer
	default:
	}
	if !yes {
		c.refused, c.left, c.sawEnd, c.sentEnd = true, true, true, true
	}
	close(c.answered)
	c.mu.Unlock()
	wake(c.readable)
	wake(c.writable)
	c.forget(!yes)
	return nil
}

// refuse answers no to the peer's open, which is the end of the connection.
func (c *Conn) refuse() {
	c.mu.Lock()
	c.refused, c.closed, c.sawEnd, c.sentEnd = true, true, true, true
	c.in = bytes.Buffer{}
	c.session.out.add(header{kind: frameRefuse, id: c.id})
	c.mu.Unlock()
	c.forget(true)
}

// receive takes data of the peer. The window bounds what is kept.
func (c *Conn) receive(data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed: // a moment ago, and the peer does not know
	case c.sawEnd:
		return errEnded
	case c.in.Len()+c.unread+len(data) > window:
		return errWindow
	default:
		c.in.Write(data)
		wake(c.readable)
	}
	return nil
}

// credit lets n more bytes be written.
func (c *Conn) credit(n int) error {
	c.mu.Lock()
	c.window += n
	tooMuch := c.window > window
	c.mu.Unlock()
	wake(c.writable)
	if tooMuch {
		return errWindow
	}
	return nil
}

// peerEnds notes that the peer writes no more.
func (c *Conn) peerEnds() {
	c.mu.Lock()
	c.sawEnd = true
	over := c.sentEnd
	c.mu.Unlock()
	wake(c.readable)
	c.forget(over)
}

// peerCloses ends both directions: a blocked Write, for nobody reads it any more, and Read behind
// what has come.
func (c *Conn) peerCloses() {
	c.mu.Lock()
	c.left, c.sawEnd, c.sentEnd = true, true, true
	c.mu.Unlock()
	wake(c.readable)
	wake(c.writable)
	c.forget(true)
}

// LocalAddr is the port of the connection, the same at both ends: the dialing side has no port of
// its own.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr is LocalAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.addr }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds Read; the zero time is no bound.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readDeadline, t, c.readable)
}

// SetWriteDeadline bounds Write; the zero time is no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeDeadline, t, c.writable)
}

func (c *Conn) setDeadline(d *deadline, t time.Time, blocked chan struct{}) error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	d.set(t)
	wake(blocked) // a call at work looks at the new one
	return nil
}
