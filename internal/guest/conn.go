package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	agentv1 "banger/proto/agent/v1"
)

// StreamPort is the vsock port to give Connect's dialer.
const StreamPort = agentv1.StreamPort

const (
	// answerTimeout is how long the guest's socket may take to accept.
	answerTimeout = 15 * time.Second
	// lingerTimeout is how long Close lets a guest take what was sent to it.
	lingerTimeout = 10 * time.Second
)

// frames are buffers of one frame, header and all: connections at rest hold none.
var frames = sync.Pool{New: func() any { b := make([]byte, agentv1.StreamHeaderBytes+agentv1.MaxChunkBytes); return &b }}

// Conn is a connection to a socket in a VM. One goroutine may call Recv, another Send and
// CloseWrite. Close must be called.
type Conn struct {
	conn net.Conn
	r    *bufio.Reader
	in   *[]byte // what Recv returned last; nil while it waits
	port uint16
	stop func() bool // lets ctx end without the connection

	answered bool        // only Recv may look
	ended    atomic.Bool // Recv has told the end
	sent     atomic.Bool // CloseWrite has told the guest
}

// Connect connects to a port of a VM ("tcp" or "udp") by a vsock connection to StreamPort. It does
// not wait for the guest: what is sent goes along with the wish to connect, and Recv tells whether
// the connection stands. The socket is whichever of the VM's addresses has a listener, loopback
// first. The connection ends with Close or ctx.
func Connect(ctx context.Context, dial func(context.Context) (net.Conn, error), network string, port uint16) (*Conn, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest: %w: %w", ErrUnreachable, err)
	}
	c := &Conn{conn: conn, r: bufio.NewReader(conn), port: port} // small: what is larger than its buffer passes it by
	c.stop = context.AfterFunc(ctx, func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(answerTimeout)) // until the answer
	if _, err := io.WriteString(conn, agentv1.StreamTarget{Network: network, Port: port}.Line()); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to port %d of the guest: %w: %w", port, ErrUnreachable, err)
	}
	return c, nil
}

// Recv returns what the guest sent next, valid until the next call, and io.EOF when it will send no
// more. Over udp each call returns one datagram. Any other error means that the connection is
// broken, or never stood: ErrInvalid says that nothing listens there.
func (c *Conn) Recv() ([]byte, error) {
	if c.ended.Load() {
		return nil, io.EOF
	}
	if c.in != nil {
		frames.Put(c.in)
		c.in = nil
	}
	if err := c.readAnswer(); err != nil {
		return nil, err
	}
	n, err := agentv1.NextStreamFrame(c.r)
	if errors.Is(err, io.EOF) {
		c.ended.Store(true)
		return nil, io.EOF
	}
	if err == nil {
		c.in = frames.Get().(*[]byte)
		err = agentv1.ReadStreamData(c.r, (*c.in)[:n])
	}
	if err != nil {
		return nil, fmt.Errorf("receive: %w: %w", ErrUnreachable, err)
	}
	return (*c.in)[:n], nil
}

// readAnswer reads the guest's answer, once.
func (c *Conn) readAnswer() error {
	if c.answered {
		return nil
	}
	err := agentv1.ReadStreamAnswer(c.r)
	if refused, ok := errors.AsType[*agentv1.StreamRefusedError](err); ok {
		return &wordedError{fmt.Sprintf("connect to port %d of the guest: %s", c.port, refused.Reason), ErrInvalid}
	}
	if err != nil {
		return fmt.Errorf("connect to port %d of the guest: %w: %w", c.port, ErrUnreachable, err)
	}
	c.answered = true
	c.conn.SetReadDeadline(time.Time{})
	return nil
}

// Send sends at most 64 KiB. It blocks while the guest does not take them.
func (c *Conn) Send(data []byte) error {
	frame := frames.Get().(*[]byte)
	defer frames.Put(frame)
	n := copy((*frame)[agentv1.StreamHeaderBytes:], data)
	if n < len(data) {
		return fmt.Errorf("send: %d bytes: at most %d are taken", len(data), n)
	}
	if err := agentv1.WriteStreamFrame(c.conn, *frame, n); err != nil {
		return fmt.Errorf("send: %w: %w", ErrUnreachable, err)
	}
	return nil
}

// CloseWrite tells the guest that nothing follows; what it sends still comes.
func (c *Conn) CloseWrite() error {
	if err := agentv1.WriteStreamEnd(c.conn); err != nil {
		return fmt.Errorf("send: %w: %w", ErrUnreachable, err)
	}
	c.sent.Store(true)
	return nil
}

// Close ends the connection. When both directions have ended it first lets the guest take what it
// was sent; otherwise the guest sees a reset. Closing twice is harmless.
func (c *Conn) Close() error {
	c.stop()
	if c.ended.Load() && c.sent.Load() {
		if c.conn.SetReadDeadline(time.Now().Add(lingerTimeout)) == nil {
			_, _ = io.Copy(io.Discard, c.r) // the guest closes once it is done
		}
	}
	_ = c.conn.Close() // closed before, perhaps
	return nil
}
