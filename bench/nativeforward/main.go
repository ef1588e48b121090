// Command nativeforward plays the parts of a forward into a machine without the machine, a process
// for each as there: the guest's agent, whose guest is this host (agent SOCKET), the daemon's
// forward (forward SOCKET PORT), and a service that sends one byte back (service). forward and
// service print their address.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"banger/api"
	"banger/internal/forward"
	"banger/internal/guest"
	"banger/internal/guestd/agent"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := play(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "nativeforward:", err)
		os.Exit(1)
	}
}

func play(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "agent":
		return serveAgent(ctx, args[1])
	case len(args) == 3 && args[0] == "forward":
		return serveForward(ctx, args[1], args[2])
	case len(args) == 1 && args[0] == "service":
		return serveByte(ctx)
	}
	return fmt.Errorf("unknown part %q", args)
}

func serveAgent(ctx context.Context, socket string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return agent.New(agent.Config{Root: os.TempDir(), Log: slog.New(slog.DiscardHandler)}).ServeStreams(l)
}

func serveForward(ctx context.Context, socket, port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	dial := func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", socket) }
	f, err := forward.Listen(api.Forward{Protocol: api.TCP, Host: netip.MustParseAddr("127.0.0.1"), GuestPort: uint16(n)},
		func(ctx context.Context) (forward.Conn, error) {
			conn, err := guest.Connect(ctx, dial, string(api.TCP), uint16(n))
			if err != nil {
				return nil, err // not a nil connection in an interface
			}
			return conn, nil
		}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	fmt.Println(f.Listen())
	<-ctx.Done()
	return f.Close()
}

func serveByte(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		var b [1]byte
		if _, err := conn.Read(b[:]); err == nil {
			_, _ = conn.Write(b[:]) // the client misses it
		}
		conn.Close()
	}
}
