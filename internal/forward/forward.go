// Package forward carries connections from an address of the host to a port of a guest, through its
// agent. It needs no route to the guest and no rights but to the host's port.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"banger/api"
)

const (
	// maxConns bounds the connections of one forward at a time; more of them wait in the host's
	// backlog.
	maxConns = 512
	// chunkBytes is the most that one message to the guest carries.
	chunkBytes = 64 << 10
)

// Conn is a connection to a socket of a guest; guest.Conn is one. Recv returns io.EOF when the
// guest will send no more. Over udp each message is one datagram.
type Conn interface {
	Recv() ([]byte, error)
	Send(data []byte) error
	CloseWrite() error
	Close() error
}

// Dial connects to the guest's port, and need not wait until the guest has accepted: Recv tells
// that it has not. The connection ends with ctx.
type Dial func(ctx context.Context) (Conn, error)

// Forward is a port of the host that is open.
type Forward struct {
	api.Forward
	dial   Dial
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	stop   func() error // closes the host's port
	conns  sync.WaitGroup
}

// Listen opens the host's port and serves it until Close. A port 0 becomes the one that was chosen.
// What a user can do about a failure is an *api.Error.
func Listen(f api.Forward, dial Dial, log *slog.Logger) (*Forward, error) {
	open := &Forward{Forward: f, dial: dial, log: log.With("forward", f.String())}
	open.ctx, open.cancel = context.WithCancel(context.Background())
	var err error
	if f.Protocol == api.UDP {
		err = open.listenUDP()
	} else {
		err = open.listenTCP()
	}
	if err != nil {
		open.cancel()
		return nil, explain(f, err)
	}
	return open, nil
}

// FreePort returns a port of the host that nobody has now; who means to serve it later may find it
// taken.
func FreePort(f api.Forward) (uint16, error) {
	f.HostPort = 0
	var bound net.Addr
	var held io.Closer
	if f.Protocol == api.UDP {
		conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", f.Listen())
		if err != nil {
			return 0, explain(f, err)
		}
		bound, held = conn.LocalAddr(), conn
	} else {
		listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", f.Listen())
		if err != nil {
			return 0, explain(f, err)
		}
		bound, held = listener.Addr(), listener
	}
	return chosenPort(bound), held.Close()
}

// StopListening gives the host's port back; connections that stand go on until Close.
func (f *Forward) StopListening() error {
	if err := f.stop(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close %s: %w", f.Listen(), err)
	}
	return nil
}

// Wait returns when no connection is left; call it after StopListening.
func (f *Forward) Wait() { f.conns.Wait() }

// Close gives the port back and ends all connections.
func (f *Forward) Close() error {
	f.cancel()
	err := f.StopListening()
	f.conns.Wait()
	return err
}

func explain(f api.Forward, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return api.Errorf(api.CodeConflict, "%s port %s of this host is in use", f.Protocol, f.Listen()).
			WithHint("choose another one, or 0 for any; ss -lntup shows who has it")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return api.Errorf(api.CodeInvalid, "%s is no address of this host", f.Host).
			WithHint("ip address shows them; 127.0.0.1 is always there")
	case errors.Is(err, syscall.EACCES):
		return api.Errorf(api.CodeInvalid, "port %d of this host is root's alone", f.HostPort).WithHint("choose one from 1024 on")
	}
	return fmt.Errorf("listen on %s: %w", f.Listen(), err)
}

// chosenPort is the port of an address that was bound to port 0.
func chosenPort(a net.Addr) uint16 {
	address, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return 0 // of no socket of ours
	}
	return address.Port()
}
