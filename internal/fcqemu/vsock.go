package fcqemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"banger/internal/accept"
	"banger/internal/vsockmux"
)

// The limits of a host-initiated connection, as Firecracker's.
const (
	vsockRequestTimeout = 2 * time.Second
	maxConnectLine      = 32
	firstHostPort       = 1 << 30
	hostPorts           = 1 << 30
)

// vsockBridge connects Firecracker's unix sockets with the guest's agent: connections to listener
// speak CONNECT <port>, those of the guest go to the socket path_<port>.
type vsockBridge struct {
	path     string
	listener net.Listener
	log      *slog.Logger
	metrics  *metrics
	ports    atomic.Uint32

	mu      sync.Mutex
	session *vsockmux.Session // nil while the guest has not said hello
}

// listenVsock binds path. A file that is already there is an error, as in Firecracker.
func listenVsock(path string, log *slog.Logger, m *metrics) (*vsockBridge, error) {
	l, err := net.Listen("unix", path) //nolint:noctx // binding a unix socket does not block
	if err != nil {
		return nil, fmt.Errorf("Cannot create backend for vsock device: Error binding to the host-side Unix socket: %s", osError(err))
	}
	// The file stays when the process ends, as Firecracker leaves it.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return &vsockBridge{path: path, listener: l, log: log, metrics: m}, nil
}

// close ends serve.
func (b *vsockBridge) close() { b.listener.Close() }

// serve accepts until the listener closes.
func (b *vsockBridge) serve(ctx context.Context) {
	for {
		conn, err := accept.Next(ctx, b.listener, func(err error) { b.log.Error("accept: " + err.Error()) })
		if err != nil {
			return
		}
		go b.fromHost(ctx, conn)
	}
}

// keepSession holds a session with the guest over carrier until ctx ends. lost tells that the guest
// has closed its port: its agent died.
func (b *vsockBridge) keepSession(ctx context.Context, carrier net.Conn, lost <-chan struct{}) {
	for ctx.Err() == nil {
		if err := carrier.SetDeadline(time.Time{}); err != nil {
			return
		}
		session, err := vsockmux.Host(ctx, reusable{carrier})
		if errors.Is(err, vsockmux.ErrVersion) && ctx.Err() == nil {
			b.log.Error(err.Error()) // the guest may start an agent of ours yet
			continue
		}
		if err != nil {
			return // ctx has ended, or QEMU has gone
		}
		session.Handle(func(r *vsockmux.Request) { b.fromGuest(ctx, r) })
		b.setSession(session)
		select {
		case <-session.Done():
		case <-lost:
		case <-ctx.Done():
		}
		b.setSession(nil)
		session.Close()
	}
}

// reusable outlives its sessions: the one stream to QEMU cannot be made again. Close ends their I/O
// alone.
type reusable struct{ net.Conn }

func (r reusable) Close() error { return r.SetDeadline(time.Unix(0, 1)) }

func (b *vsockBridge) setSession(s *vsockmux.Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.session = s
}

// fromHost closes conn without a word when the guest does not accept.
func (b *vsockBridge) fromHost(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(vsockRequestTimeout)) // cannot fail on an open socket
	r := bufio.NewReader(conn)                                // what follows the request belongs to the guest
	port, err := readConnect(r)
	if err != nil {
		b.log.Warn("vsock: " + err.Error())
		return
	}
	conn.SetReadDeadline(time.Time{})
	b.mu.Lock()
	session := b.session
	b.mu.Unlock()
	if session == nil {
		return
	}
	guest, err := session.Open(port)
	if err != nil {
		return
	}
	b.join(conn, r, guest, func() error {
		dialing, cancel := context.WithTimeout(ctx, vsockRequestTimeout)
		defer cancel()
		if err := guest.Accepted(dialing); err != nil {
			return err
		}
		_, err := fmt.Fprintf(conn, "OK %d\n", firstHostPort+b.ports.Add(1)%hostPorts-1)
		return err
	})
}

func (b *vsockBridge) fromGuest(ctx context.Context, r *vsockmux.Request) {
	dialer := net.Dialer{Timeout: vsockRequestTimeout}
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("%s_%d", b.path, r.Port))
	if err != nil {
		r.Refuse()
		return
	}
	guest, err := r.Accept()
	if err != nil {
		conn.Close()
		return
	}
	b.join(conn, conn, guest, func() error { return nil })
}

// join copies both ways, passes each end on, and closes both connections when both directions have
// ended. What the host sends, which fromHost gives, goes on its way before accepted returns, for
// the answer of an emulated guest takes milliseconds; the guest's part begins when it says that the
// connection stands.
func (b *vsockBridge) join(host net.Conn, fromHost io.Reader, guest net.Conn, accepted func() error) {
	ended := func(metric string, n int64, err error) {
		b.metrics.add(metric, n)
		if err != nil { // nothing more can come through
			host.Close()
			guest.Close()
		}
	}
	var toGuest sync.WaitGroup
	toGuest.Go(func() {
		n, err := oneWay(guest, fromHost)
		ended("vsock rx_bytes_count", n, err)
	})
	var n int64
	err := accepted()
	if err == nil {
		b.metrics.add("vsock conns_added", 1)
		defer b.metrics.add("vsock conns_removed", 1)
		n, err = oneWay(host, guest)
	}
	ended("vsock tx_bytes_count", n, err)
	toGuest.Wait()
	host.Close()
	guest.Close()
}

type halfCloser interface{ CloseWrite() error }

// oneWay copies until from ends, and then ends to's write side.
func oneWay(to net.Conn, from io.Reader) (int64, error) {
	n, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 64<<10))
	if err == nil {
		err = to.(halfCloser).CloseWrite()
	}
	return n, err
}

// readConnect reads CONNECT <port>\n.
func readConnect(r io.ByteReader) (uint32, error) {
	var line []byte
	for len(line) < maxConnectLine {
		c, err := r.ReadByte()
		if err != nil {
			return 0, fmt.Errorf("read connect request: %w", err)
		}
		if c != '\n' {
			line = append(line, c)
			continue
		}
		words := strings.Fields(string(line))
		if len(words) != 2 || !strings.EqualFold(words[0], "connect") {
			return 0, fmt.Errorf("invalid connect request %q", line)
		}
		port, err := strconv.ParseUint(words[1], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("invalid connect request %q", line)
		}
		return uint32(port), nil
	}
	return 0, errors.New("invalid connect request: line too long")
}
