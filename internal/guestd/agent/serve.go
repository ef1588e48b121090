package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sync/errgroup"

	"banger/internal/vsockmux"
	agentv1 "banger/proto/agent/v1"
)

const (
	portPoll    = 20 * time.Millisecond  // for the serial port, which may come after the agent
	portPollMax = time.Second            // once it is clear that it will not come soon
	reopenPause = 100 * time.Millisecond // between sessions, for an end without a host reports EOF at once
)

// ServeHost answers the host on every way there is, until ctx ends: AF_VSOCK where the guest has
// it, and the virtio-serial port of vsockmux whenever there is one.
func (s *Server) ServeHost(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	ports := map[uint32]func(net.Listener) error{agentv1.Port: s.Serve, agentv1.StreamPort: s.ServeStreams}
	for port, serve := range ports {
		l, err := vsock.Listen(port, nil)
		if err != nil {
			s.config.Log.Debug("guest has no vsock", "err", err)
			continue
		}
		group.Go(func() error { return ignoreClosed(serve(hostOnly{l})) })
	}
	group.Go(func() error { return s.serveSerial(ctx, "/sys/class/virtio-ports", "/dev") })
	return group.Wait()
}

// hostOnly drops the peers that are not the host: processes of the guest, which could otherwise
// become root.
type hostOnly struct{ net.Listener }

func (l hostOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if peer, ok := conn.RemoteAddr().(*vsock.Addr); ok && peer.ContextID == vsock.Host {
			return conn, nil
		}
		_ = conn.Close()
	}
}

// serveSerial runs one session after another on the port.
func (s *Server) serveSerial(ctx context.Context, class, dev string) error {
	for {
		path, err := waitPort(ctx, class, dev)
		if err != nil {
			return nil // only ctx ends it
		}
		if err := s.serveSession(ctx, path); err != nil && ctx.Err() == nil {
			s.config.Log.Debug("session with the host ended", "err", err)
		}
		select {
		case <-time.After(reopenPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// serveSession serves one session until it breaks.
func (s *Server) serveSession(ctx context.Context, path string) error {
	port, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open serial port: %w", err)
	}
	session, err := vsockmux.Guest(ctx, port) // owns port
	if err != nil {
		return fmt.Errorf("greet host: %w", err)
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	sockets, err := session.Listen(agentv1.StreamPort)
	if err != nil {
		return err
	}
	l, err := session.Listen(agentv1.Port)
	if err != nil {
		return err
	}
	var served errgroup.Group
	served.Go(func() error { return ignoreClosed(s.ServeStreams(sockets)) })
	served.Go(func() error { return ignoreClosed(s.Serve(l)) })
	return served.Wait()
}

// waitPort waits for the port called vsockmux.PortName, whose device number moves with the order of
// the drives.
func waitPort(ctx context.Context, class, dev string) (string, error) {
	pause := portPoll
	for {
		if path := findPort(class, dev); path != "" {
			return path, nil
		}
		select {
		case <-time.After(pause):
			pause = min(pause*2, portPollMax)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func findPort(class, dev string) string {
	names, _ := filepath.Glob(filepath.Join(class, "*", "name"))
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil && strings.TrimSpace(string(b)) == vsockmux.PortName {
			return filepath.Join(dev, filepath.Base(filepath.Dir(name)))
		}
	}
	return ""
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
