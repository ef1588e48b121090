// Package vsockmux carries vsock-like connections over one byte stream, such as a virtio-serial port.
//
// firecracker-qemu holds the host's end ([Host]) of the port called [PortName], the agent in the guest holds the other ([Guest]). Either end
// dials ports of the other; a connection is a yamux stream with a port number in front. Unlike yamux alone, a connection can be closed one way
// ([Conn.CloseWrite]) for as long as it lives, and a full Close makes the peer's writes fail.
//
// A session has no keepalive and no write timeout: a paused VM is silent for as long as it is paused. Memory is bounded by one
// window per connection and by [MaxConns] connections.
package vsockmux

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// PortName is the virtio-serial port's name in the guest (/sys/class/virtio-ports/*/name).
const PortName = "firecracker.vsock"

// MaxConns is how many connections a session carries at once, as many as Firecracker's vsock.
const MaxConns = 1023

// window is what a peer may send on one connection before it is read. yamux allows no smaller one.
const window = 256 << 10

// requestTimeout bounds a peer that opens a stream and then does not name its port.
const requestTimeout = 10 * time.Second

var (
	// ErrRefused is Dial's error when nothing listens on the port at the other end.
	ErrRefused = errors.New("vsockmux: connection refused")
	// ErrSessionEnded is the error of everything that needs a session which has ended.
	ErrSessionEnded = errors.New("vsockmux: session ended")
	// ErrTooManyConns is Dial's error when the session carries MaxConns connections already.
	ErrTooManyConns = errors.New("vsockmux: too many connections")
)

// A Session is one end of the byte stream. Its methods may be called concurrently.
type Session struct {
	mux     *yamux.Session
	control *yamux.Stream // see Conn.Close
	wg      sync.WaitGroup

	mu        sync.Mutex
	serving   bool
	listeners map[uint32]*listener
	unclaimed func(*Request)
	conns     map[uint32]*Conn // by yamux stream id, which is the same at both ends
	count     int              // conns and requests which are no conns yet
}

// Host makes the VMM's end. It waits for the guest's hello until ctx ends. conn belongs to the session from the call on: it is closed when Host
// returns an error and when the session ends.
func Host(ctx context.Context, conn io.ReadWriteCloser) (*Session, error) {
	return open(ctx, conn, func(r *bufio.Reader) error { return helloHost(r, conn) }, yamux.Server, (*yamux.Session).AcceptStream)
}

// Guest makes the guest's end. It says hello until the host answers or ctx ends. conn belongs to the session from the call on, as with Host.
// A guest whose session ends opens the port again and calls Guest again.
func Guest(ctx context.Context, conn io.ReadWriteCloser) (*Session, error) {
	return open(ctx, conn, func(r *bufio.Reader) error { return helloGuest(ctx, r, conn) }, yamux.Client, (*yamux.Session).OpenStream)
}

func open(ctx context.Context, conn io.ReadWriteCloser, hello func(*bufio.Reader) error,
	start func(io.ReadWriteCloser, *yamux.Config) (*yamux.Session, error), openControl func(*yamux.Session) (*yamux.Stream, error),
) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	s, err := openCarrier(conn, hello, start, openControl)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		if s != nil {
			s.mux.Close()
		}
		conn.Close()
		return nil, err
	}
	s.wg.Add(1)
	go s.readStops()
	return s, nil
}

func openCarrier(conn io.ReadWriteCloser, hello func(*bufio.Reader) error,
	start func(io.ReadWriteCloser, *yamux.Config) (*yamux.Session, error), openControl func(*yamux.Session) (*yamux.Stream, error),
) (*Session, error) {
	// The reader goes on to yamux: it may already hold bytes behind the hello.
	reader := bufio.NewReaderSize(conn, 64<<10)
	if err := hello(reader); err != nil {
		return nil, err
	}
	mux, err := start(&carrier{Reader: reader, conn: conn}, muxConfig())
	if err != nil {
		return nil, fmt.Errorf("start session: %w", err)
	}
	s := &Session{mux: mux, listeners: map[uint32]*listener{}, conns: map[uint32]*Conn{}}
	if s.control, err = openControl(mux); err != nil {
		return s, fmt.Errorf("open control stream: %w", err)
	}
	return s, nil
}

func muxConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          256,
		EnableKeepAlive:        false,
		KeepAliveInterval:      time.Hour, // unused, must not be 0
		ConnectionWriteTimeout: math.MaxInt64,
		MaxStreamWindowSize:    window,
		StreamOpenTimeout:      0,
		StreamCloseTimeout:     0, // would cut half-closed connections
		LogOutput:              io.Discard,
	}
}

// Dial connects to port at the other end. The error is ErrRefused when nothing listens there, and ctx's when it ends first.
func (s *Session) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := s.reserve(); err != nil {
		return nil, err
	}
	type result struct {
		conn *Conn
		err  error
	}
	done := make(chan result, 1)
	dialing, cancel := context.WithCancel(ctx)
	go func() {
		conn, err := s.dial(dialing, port)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		cancel()
		if r.err != nil {
			return nil, r.err
		}
		return r.conn, nil
	case <-ctx.Done():
		cancel()
		// Opening may hang in a full carrier; whatever comes out of it late is closed.
		go func() {
			if r := <-done; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// dial consumes the caller's reservation.
func (s *Session) dial(ctx context.Context, port uint32) (*Conn, error) {
	stream, err := s.mux.OpenStream()
	if err != nil {
		s.release()
		return nil, s.cause(err)
	}
	conn := s.newConn(stream, Addr{Port: port})
	stop := context.AfterFunc(ctx, func() { stream.SetReadDeadline(time.Unix(0, 1)) })
	var answer [1]byte
	_, err = stream.Write(binary.BigEndian.AppendUint32(nil, port))
	if err == nil {
		_, err = io.ReadFull(stream, answer[:])
	}
	switch {
	case !stop():
		err = ctx.Err()
	case err != nil:
		err = s.cause(err)
	case answer[0] != accepted:
		err = ErrRefused
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Close ends the session and all its connections, and waits for its goroutines.
func (s *Session) Close() error {
	s.mux.Close()
	s.wg.Wait()
	return nil
}

// Done is closed when the session has ended, by Close or because the stream broke.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// cause names the end of the session as the reason when it is one.
func (s *Session) cause(err error) error {
	if s.mux.IsClosed() {
		return ErrSessionEnded
	}
	// A peer out of backlog or connections closes or resets the stream instead of answering.
	if errors.Is(err, yamux.ErrConnectionReset) || errors.Is(err, io.EOF) {
		return ErrRefused
	}
	return err
}

func (s *Session) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= MaxConns {
		return ErrTooManyConns
	}
	s.count++
	return nil
}

func (s *Session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
}

// readStops closes the write side of each connection whose reader at the other end has gone, see Conn.Close.
func (s *Session) readStops() {
	defer s.wg.Done()
	var id [4]byte
	for {
		if _, err := io.ReadFull(s.control, id[:]); err != nil {
			s.mux.Close()
			return
		}
		s.mu.Lock()
		conn := s.conns[binary.BigEndian.Uint32(id[:])]
		s.mu.Unlock()
		if conn != nil {
			conn.stopWriting()
		}
	}
}

// carrier joins yamux's two writes of a data frame, header and body, into one: each write is a virtqueue buffer and a trap into the VMM.
type carrier struct {
	io.Reader
	conn   io.ReadWriteCloser
	header []byte
	joined []byte
}

// Write is called by yamux's one sending goroutine only. A yamux header is 12 bytes: version, type (0 is data), flags, stream, length.
func (c *carrier) Write(b []byte) (int, error) {
	const headerSize = 12
	if c.header == nil && len(b) == headerSize && b[1] == 0 && binary.BigEndian.Uint32(b[8:]) > 0 {
		c.header = append([]byte(nil), b...)
		return len(b), nil
	}
	if c.header == nil {
		return c.conn.Write(b)
	}
	c.joined = append(append(c.joined[:0], c.header...), b...)
	c.header = nil
	if _, err := c.conn.Write(c.joined); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *carrier) Close() error { return c.conn.Close() }
