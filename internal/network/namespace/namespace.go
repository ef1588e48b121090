// Package namespace is the keeper's end of the network's namespace: it finds or starts the holder
// in there (package holder), and asks it for links, rules and sockets.
package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/plan"
)

// RequestTimeout bounds a request to the holder; a thousand endpoints take it some seconds.
const RequestTimeout = 20 * time.Second

// Namespace is what the holder of it gives and takes. It is safe for concurrent use.
type Namespace struct {
	PID    int         // the holder's
	IPv6   bool        // it can make that
	Found  *plan.State // what it had been told before, nil when it is new
	Joined bool        // it is new, in a namespace that another one has left

	socket  string
	timeout time.Duration // RequestTimeout; tests have less

	mu   sync.Mutex // one request at a time
	conn *holderConn
}

// holderConn is a connection to the holder; a request that is cut short ends it, for the next reply
// would not be its own.
type holderConn struct {
	*socketConn
	out *json.Encoder
	in  *json.Decoder
}

// Open finds the home's holder, or starts one: command run inside new namespaces, or those of a
// dead one, with its socket as descriptor holder.SocketFD. The holder outlives this process.
func Open(ctx context.Context, d network.Dir, command []string, rootless bool) (*Namespace, error) {
	n := &Namespace{socket: d.HolderSocket(), timeout: RequestTimeout}
	hello, err := n.connect(ctx)
	if noHolder(err) {
		orphan := findOrphan(d)
		if err := startHolder(d, command, rootless, orphan); err != nil {
			return nil, err
		}
		n.Joined = orphan != 0
		hello, err = n.connect(ctx)
	}
	if err != nil {
		return nil, err
	}
	n.PID, n.IPv6, n.Found = hello.PID, hello.IPv6, hello.State
	return n, nil
}

// noHolder reports whether an error says that nobody listens at the holder's socket.
func noHolder(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// connect dials the holder and hears what it says first. It serves one connection after another.
func (n *Namespace) connect(ctx context.Context) (hello plan.Reply, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", n.socket)
	if err != nil {
		return hello, fmt.Errorf("find holder: %w", err)
	}
	sc := &socketConn{UnixConn: conn.(*net.UnixConn)}
	n.conn = &holderConn{sc, json.NewEncoder(sc), json.NewDecoder(sc)}
	_ = n.conn.SetDeadline(time.Now().Add(n.timeout))
	if hello, _, err = n.conn.receive(); err != nil {
		return hello, errors.Join(fmt.Errorf("greet holder: %w", err), n.hangUp())
	}
	return hello, nil
}

// hangUp has the next request connect anew. The holder goes on with the last one until it has
// ended.
func (n *Namespace) hangUp() error {
	conn := n.conn
	n.conn = nil
	return conn.Close()
}

// Apply has the holder make links and rules so.
func (n *Namespace) Apply(s plan.State) error {
	_, err := n.ask(plan.Request{State: &s})
	return err
}

// DNSSockets returns sockets that listen inside, for UDP and TCP.
func (n *Namespace) DNSSockets(gateway netip.Addr) (net.PacketConn, net.Listener, error) {
	files, err := n.ask(plan.Request{DNS: gateway})
	if err != nil {
		return nil, nil, err
	}
	defer closeAll(files)
	if len(files) != 2 {
		return nil, nil, fmt.Errorf("take DNS sockets: got %d, want 2", len(files))
	}
	packets, err := net.FilePacketConn(files[0])
	if err != nil {
		return nil, nil, fmt.Errorf("take DNS socket: %w", err)
	}
	streams, err := net.FileListener(files[1])
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("take DNS socket: %w", err), packets.Close())
	}
	return packets, streams, nil
}

// ServiceSocket returns a socket that listens inside.
func (n *Namespace) ServiceSocket(at netip.AddrPort) (net.Listener, error) {
	files, err := n.ask(plan.Request{Service: at})
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	if len(files) != 1 { // a holder of an earlier build knows no services
		return nil, errors.New("the network is of an earlier build, which has none; stop all machines once to replace it")
	}
	return net.FileListener(files[0])
}

// RelayFiles returns what relay.New needs.
func (n *Namespace) RelayFiles() ([]*os.File, error) {
	return n.ask(plan.Request{Relay: true})
}

// Wait returns an error when the holder has ended, or ctx.
func (n *Namespace) Wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(n.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch holder: %w", err)
	}
	pidfd := os.NewFile(uintptr(fd), "holder")
	defer pidfd.Close()
	defer context.AfterFunc(ctx, func() { pidfd.Close() })()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch holder: %w", err)
	}
	err = raw.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errors.New("the holder of the namespace has ended"), err)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Stop ends the holder and waits for that. Its namespaces go when the last process inside has gone.
func (n *Namespace) Stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.reconnect(); noHolder(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("stop holder: %w", err)
	}
	defer n.conn.Close()
	_ = n.conn.SetDeadline(time.Now().Add(n.timeout))
	if err := n.conn.out.Encode(plan.Request{Stop: true}); err != nil {
		return nil //nolint:nilerr // it has ended
	}
	if _, _, err := n.conn.receive(); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("stop holder: %w", err)
	}
	return nil
}

// ask makes a request and returns the files that come with the answer.
func (n *Namespace) ask(request plan.Request) ([]*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.reconnect(); err != nil {
		return nil, err
	}
	_ = n.conn.SetDeadline(time.Now().Add(n.timeout))
	if err := n.conn.out.Encode(request); err != nil {
		return nil, errors.Join(fmt.Errorf("ask holder: %w", err), n.hangUp())
	}
	reply, files, err := n.conn.receive()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask holder: %w", err), n.hangUp())
	}
	if reply.Error != "" {
		closeAll(files)
		return nil, errors.New(reply.Error)
	}
	return files, nil
}

// reconnect connects again after a request that was cut short. n.mu is held.
func (n *Namespace) reconnect() error {
	if n.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.timeout)
	defer cancel()
	hello, err := n.connect(ctx)
	if err == nil && hello.PID != n.PID { // whose namespace is another, see Wait
		err = errors.Join(fmt.Errorf("find holder %d: it is %d now", n.PID, hello.PID), n.hangUp())
	}
	return err
}

// receive reads a reply and the files that come with it.
func (c *holderConn) receive() (reply plan.Reply, files []*os.File, err error) {
	err = c.in.Decode(&reply)
	files, c.files = c.files, nil
	if err != nil {
		closeAll(files)
		files = nil
	}
	return reply, files, err
}

// socketConn reads a stream and keeps the descriptors that come with it.
type socketConn struct {
	*net.UnixConn
	files []*os.File
}

// Read reads like any stream.
func (c *socketConn) Read(p []byte) (int, error) {
	rights := make([]byte, unix.CmsgSpace(4*4))
	n, got, _, _, err := c.ReadMsgUnix(p, rights)
	if got > 0 {
		messages, parseErr := unix.ParseSocketControlMessage(rights[:got])
		err = errors.Join(err, parseErr)
		for _, m := range messages {
			fds, parseErr := unix.ParseUnixRights(&m)
			err = errors.Join(err, parseErr)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				_ = unix.SetNonblock(fd, true) // else a read of it could not be ended
				c.files = append(c.files, os.NewFile(uintptr(fd), "inside"))
			}
		}
	}
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}
