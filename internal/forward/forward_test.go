package forward_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/forward"
	"banger/internal/guest"
	"banger/internal/guestd/agent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// guestEnd is a real agent, whose guest is this host.
type guestEnd struct {
	dial func(context.Context) (net.Conn, error)
	kill func() // as the end of a VM does
}

func newGuest(t *testing.T) guestEnd {
	t.Helper()
	server := agent.New(agent.Config{Build: "test", Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeStreams(l) }()
	kill := sync.OnceFunc(func() {
		server.Close()
		<-served
	})
	t.Cleanup(kill)
	return guestEnd{func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", socket) }, kill}
}

func (g guestEnd) open(t *testing.T, protocol api.Protocol, guestPort uint16) *forward.Forward {
	t.Helper()
	f, err := forward.Listen(api.Forward{Protocol: protocol, Host: netip.MustParseAddr("127.0.0.1"), GuestPort: guestPort},
		func(ctx context.Context) (forward.Conn, error) {
			conn, err := guest.Connect(ctx, g.dial, string(protocol), guestPort)
			if err != nil {
				return nil, err
			}
			return conn, nil
		}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// serve runs a service of the guest: do gets each connection.
func serve(t *testing.T, address string, do func(*net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				do(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func dial(t *testing.T, f *forward.Forward) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", f.Listen())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// answer reads all that the client sends before it answers: only half-closed connections get that
// far.
func answer(conn *net.TCPConn) {
	request, err := io.ReadAll(conn)
	if err == nil {
		fmt.Fprintf(conn, "got %d bytes", len(request))
	}
}

func TestHalfClose(t *testing.T) {
	g := newGuest(t)
	t.Run("ClientFirst", func(t *testing.T) {
		conn := dial(t, g.open(t, api.TCP, serve(t, "127.0.0.1:0", answer)))
		fmt.Fprint(conn, "hello")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); string(got) != "got 5 bytes" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("GuestFirst", func(t *testing.T) {
		received := make(chan string, 1)
		conn := dial(t, g.open(t, api.TCP, serve(t, "127.0.0.1:0", func(conn *net.TCPConn) {
			fmt.Fprint(conn, "banner")
			conn.CloseWrite()
			got, _ := io.ReadAll(conn)
			received <- string(got)
		})))
		if got, err := io.ReadAll(conn); string(got) != "banner" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		fmt.Fprint(conn, "after the end")
		conn.Close()
		if got := <-received; got != "after the end" {
			t.Errorf("the guest got %q", got)
		}
	})
	t.Run("ListenerOnIPv6Alone", func(t *testing.T) {
		conn := dial(t, g.open(t, api.TCP, serve(t, "[::1]:0", answer)))
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "got 0 bytes" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// TestMany: connections at once neither wait for each other nor mix their bytes, also beside some
// that nobody reads.
func TestMany(t *testing.T) {
	g := newGuest(t)
	f := g.open(t, api.TCP, serve(t, "127.0.0.1:0", func(conn *net.TCPConn) { io.Copy(conn, conn) }))
	stuck := g.open(t, api.TCP, serve(t, "127.0.0.1:0", func(conn *net.TCPConn) { io.ReadFull(conn, make([]byte, 1)); conn.CloseWrite(); <-t.Context().Done() }))
	for range 4 {
		fmt.Fprint(dial(t, stuck), "x")
	}
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			want := make([]byte, 300<<10+i)
			rand.Read(want)
			conn := dial(t, f)
			group.Go(func() {
				conn.Write(want)
				conn.CloseWrite()
			})
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, want) {
				t.Errorf("connection %d: %d bytes came back, %v; want the %d that were sent", i, len(got), err, len(want))
			}
		})
	}
	group.Wait()
}

func wantReset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
}

func TestBrokenConnections(t *testing.T) {
	g := newGuest(t)
	t.Run("NobodyListens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		f := g.open(t, api.TCP, l.Addr().(*net.TCPAddr).AddrPort().Port())
		for name, send := range map[string]func(*net.TCPConn) error{
			"Silent": func(*net.TCPConn) error { return nil },
			"Sends": func(conn *net.TCPConn) error {
				_, err := conn.Write(make([]byte, 1<<20))
				return err
			},
			"HalfCloses": func(conn *net.TCPConn) error {
				_, err := fmt.Fprint(conn, "hello")
				return errors.Join(err, conn.CloseWrite())
			},
		} {
			t.Run(name, func(t *testing.T) {
				conn, err := net.Dial("tcp", f.Listen())
				if err == nil {
					defer conn.Close()
					err = send(conn.(*net.TCPConn))
				}
				// A reset is told once, to whichever call is first to meet it.
				if err == nil {
					wantReset(t, conn.(*net.TCPConn))
				} else if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ENOTCONN) {
					t.Error(err)
				}
			})
		}
	})
	t.Run("GuestResets", func(t *testing.T) {
		conn := dial(t, g.open(t, api.TCP, serve(t, "127.0.0.1:0", func(conn *net.TCPConn) {
			io.ReadFull(conn, make([]byte, 1))
			conn.SetLinger(0)
		})))
		fmt.Fprint(conn, "x")
		wantReset(t, conn)
	})
	t.Run("ClientResets", func(t *testing.T) {
		ended := make(chan error, 1)
		conn := dial(t, g.open(t, api.TCP, serve(t, "127.0.0.1:0", func(conn *net.TCPConn) {
			fmt.Fprint(conn, "x")
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		})))
		io.ReadFull(conn, make([]byte, 1))
		conn.SetLinger(0)
		conn.Close()
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Error("the guest was not told")
		}
	})
	t.Run("GuestDies", func(t *testing.T) {
		g := newGuest(t)
		conn := dial(t, g.open(t, api.TCP, serve(t, "127.0.0.1:0", func(conn *net.TCPConn) { io.Copy(conn, conn) })))
		fmt.Fprint(conn, "x")
		io.ReadFull(conn, make([]byte, 1))
		g.kill()
		wantReset(t, conn)
	})
}

func TestListen(t *testing.T) {
	g := newGuest(t)
	f := g.open(t, api.TCP, serve(t, "127.0.0.1:0", func(conn *net.TCPConn) { io.Copy(conn, conn) }))
	for protocol, f := range map[api.Protocol]*forward.Forward{api.TCP: f, api.UDP: g.open(t, api.UDP, 9)} {
		_, err := forward.Listen(api.Forward{Protocol: protocol, Host: f.Host, HostPort: f.HostPort, GuestPort: 1}, nil, slog.New(slog.DiscardHandler))
		if api.CodeOf(err) != api.CodeConflict {
			t.Errorf("%s port taken: %v", protocol, err)
		}
	}
	_, err := forward.Listen(api.Forward{Protocol: api.TCP, Host: netip.MustParseAddr("192.0.2.1"), GuestPort: 1}, nil, slog.New(slog.DiscardHandler))
	if api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("an address of another host: %v", err)
	}

	// A connection that stands goes on when the port has been given back.
	conn := dial(t, f)
	fmt.Fprint(conn, "x")
	io.ReadFull(conn, make([]byte, 1))
	if err := f.StopListening(); err != nil {
		t.Fatal(err)
	}
	again, err := net.Listen("tcp", f.Listen())
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	again.Close()
	fmt.Fprint(conn, "y")
	if got := make([]byte, 1); true {
		if _, err := io.ReadFull(conn, got); err != nil || got[0] != 'y' {
			t.Errorf("got %q, %v", got, err)
		}
	}
	conn.Close()
	f.Wait()
}

// A port that is looked for is nobody's when it is found: nothing accepts meanwhile what another
// one sends there.
func TestFreePort(t *testing.T) {
	for _, protocol := range []api.Protocol{api.TCP, api.UDP} {
		f := api.Forward{Protocol: protocol, GuestPort: 1}.WithDefaults()
		port, err := forward.FreePort(f)
		if port == 0 || err != nil {
			t.Fatalf("%s: FreePort = %d, %v", protocol, port, err)
		}
		f.HostPort = port
		open, err := forward.Listen(f, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Errorf("%s: the port is not free: %v", protocol, err)
			continue
		}
		open.Close()
		f.Host = netip.MustParseAddr("192.0.2.1")
		if _, err := forward.FreePort(f); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: FreePort at another host's address: %v", protocol, err)
		}
	}
}

func TestUDP(t *testing.T) {
	service, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go func() { // tells each peer what it said
		buf := make([]byte, 64<<10)
		for {
			n, from, err := service.ReadFrom(buf)
			if err != nil {
				return
			}
			service.WriteTo(append([]byte("you said "), buf[:n]...), from)
		}
	}()
	f := newGuest(t).open(t, api.UDP, service.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	peer := func(i int, sizes ...int) {
		conn, err := net.Dial("udp", f.Listen())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 64<<10)
		for _, size := range sizes {
			word := fmt.Sprintf("%0*d", size, i)
			fmt.Fprint(conn, word)
			if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "you said "+word {
				t.Errorf("peer %d: %d bytes, %v", i, n, err)
			}
		}
	}
	var group sync.WaitGroup
	for i := range 20 { // small datagrams: the kernel drops what a socket's buffer has no room for
		group.Go(func() { peer(i, 1, 1400) })
	}
	group.Wait()
	peer(21, 60000)
}
