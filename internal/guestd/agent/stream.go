package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	agentv1 "banger/proto/agent/v1"
)

const (
	// connectTimeout is how long a socket of the guest itself may take to accept; a full backlog
	// makes it wait.
	connectTimeout = 10 * time.Second
	// openTimeout is how long the host may take to say which socket it means.
	openTimeout = 10 * time.Second
	// maxStreamConns bounds the connections under way; more of them wait.
	maxStreamConns = 1000
)

// streams serves agentv1.StreamPort: it connects the host to sockets of the guest.
type streams struct {
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	slots  chan struct{}
	conns  sync.WaitGroup
}

func newStreams() *streams {
	s := &streams{slots: make(chan struct{}, maxStreamConns)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// ServeStreams connects what comes through l to sockets of the guest, until l fails or the server
// is closed.
func (s *Server) ServeStreams(l net.Listener) error { return s.streams.serve(l) }

func (s *streams) serve(l net.Listener) error {
	stop := context.AfterFunc(s.ctx, func() { l.Close() })
	defer stop()
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return net.ErrClosed
		}
		conn, err := l.Accept()
		if err != nil {
			<-s.slots
			return err
		}
		s.conns.Go(func() {
			defer func() { <-s.slots }()
			s.carry(conn)
		})
	}
}

func (s *streams) close() {
	s.cancel()
	s.conns.Wait()
}

// carry serves one connection until both directions have ended, or one has broken.
func (s *streams) carry(host net.Conn) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	defer host.Close()
	_ = host.SetReadDeadline(time.Now().Add(openTimeout)) // a connection that is closed shows in the read
	r := bufio.NewReader(host)                            // small: what is larger than its buffer passes it by
	target, err := agentv1.ReadStreamTarget(r)
	var socket net.Conn
	if err == nil {
		socket, err = connectSocket(ctx, target)
	}
	if err != nil {
		_, _ = io.WriteString(host, agentv1.StreamAnswer(err)) // the host has gone, perhaps
		return
	}
	_ = host.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() {
		reset(socket)
		host.Close()
	})
	var answers sync.WaitGroup
	answers.Go(func() {
		if toHost(host, socket) != nil {
			cancel()
		}
	})
	// The host's first data are here already: the socket has them before the host has its answer.
	if fromHost(socket, r) != nil {
		cancel()
	}
	answers.Wait()
	if stop() {
		socket.Close()
	}
}

// reset closes a socket so that its peer sees that data may be missing.
func reset(socket net.Conn) {
	if tcp, ok := socket.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	socket.Close()
}

// connectSocket connects to the target, at whichever of the guest's own addresses has a listener
// unless it names one.
func connectSocket(ctx context.Context, target agentv1.StreamTarget) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	dialer := net.Dialer{KeepAlive: -1} // its peer is this kernel, and each option is a call
	try := func(addresses ...netip.Addr) bool {
		for _, address := range addresses {
			at := netip.AddrPortFrom(address, target.Port)
			conn, err = dialer.DialContext(ctx, target.Network, at.String())
			if err == nil {
				return true
			}
		}
		return false
	}
	if target.Address.IsValid() {
		try(target.Address)
	} else if !try(netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()) {
		try(ownAddresses()...)
	}
	return conn, err // of the last one: all are refused alike
}

// ownAddresses lists where a service of the guest may listen besides loopback. The kernel takes
// long to say.
func ownAddresses() (addresses []netip.Addr) {
	all, _ := net.InterfaceAddrs() // without them loopback answers for most
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && !prefix.Addr().IsLoopback() && !prefix.Addr().IsLinkLocalUnicast() {
			addresses = append(addresses, prefix.Addr())
		}
	}
	return addresses
}

// frames are buffers of one frame, header and all.
var frames = sync.Pool{New: func() any {
	b := make([]byte, agentv1.StreamHeaderBytes+agentv1.MaxChunkBytes)
	return &b
}}

// fromHost writes to the socket what the host sends; nil says that the host has sent all.
func fromHost(socket net.Conn, host io.Reader) error {
	for {
		n, err := agentv1.NextStreamFrame(host)
		if errors.Is(err, io.EOF) {
			if half, ok := socket.(interface{ CloseWrite() error }); ok {
				return half.CloseWrite()
			}
			return nil
		}
		if err != nil {
			return err
		}
		if err := passFrame(socket, host, n); err != nil && !unreachableDatagram(socket, err) {
			return err
		}
	}
}

// passFrame writes a frame of n bytes to the socket.
func passFrame(socket net.Conn, host io.Reader, n int) error {
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	if err := agentv1.ReadStreamData(host, (*buf)[:n]); err != nil {
		return err
	}
	_, err := socket.Write((*buf)[:n])
	return err
}

// toHost sends the host its answer and what the socket gives; nil says that it has ended well.
func toHost(host io.Writer, socket net.Conn) error {
	if _, err := io.WriteString(host, agentv1.StreamAnswer(nil)); err != nil {
		return err
	}
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	for {
		n, err := socket.Read((*buf)[agentv1.StreamHeaderBytes:])
		if n > 0 || err == nil { // a datagram may be empty
			if err := agentv1.WriteStreamFrame(host, *buf, n); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return agentv1.WriteStreamEnd(host)
		case err != nil && !unreachableDatagram(socket, err):
			return err
		}
	}
}

// unreachableDatagram reports whether an error only says that nobody took an earlier datagram: its
// service may come yet.
func unreachableDatagram(socket net.Conn, err error) bool {
	_, datagrams := socket.(*net.UDPConn)
	return datagrams && errors.Is(err, syscall.ECONNREFUSED)
}
