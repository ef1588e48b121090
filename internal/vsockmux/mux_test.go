package vsockmux

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// wire is a connected pair of unix sockets, which is what QEMU's chardev gives the host.
func wire(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "wire")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

func pair(t testing.TB) (host, guest *Session) {
	t.Helper()
	a, b := wire(t)
	return connect(t, a, b)
}

func connect(t testing.TB, a, b io.ReadWriteCloser) (host, guest *Session) {
	t.Helper()
	ctx := testContext(t)
	var hostErr, guestErr error
	var wg sync.WaitGroup
	wg.Go(func() { host, hostErr = Host(ctx, a) })
	wg.Go(func() { guest, guestErr = Guest(ctx, b) })
	wg.Wait()
	if err := errors.Join(hostErr, guestErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close(); guest.Close() })
	return host, guest
}

// dial connects from to port of to and returns both ends.
func dial(t testing.TB, from, to *Session, port uint32) (dialed, accepted *Conn) {
	t.Helper()
	l, err := to.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type result struct {
		c   net.Conn
		err error
	}
	got := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		got <- result{c, err}
	}()
	c, err := from.Dial(testContext(t), port)
	if err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	return c.(*Conn), r.c.(*Conn)
}

func TestBothDirections(t *testing.T) {
	host, guest := pair(t)
	for _, tt := range []struct {
		name     string
		from, to *Session
	}{{"host dials", host, guest}, {"guest dials", guest, host}} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := dial(t, tt.from, tt.to, 52)
			sent := make([]byte, 3*window+1)
			rand.Read(sent)
			go func() {
				a.Write(sent)
				a.Close()
			}()
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes, %v; want the %d that were sent", len(got), err, len(sent))
			}
			b.Close()
		})
	}
}

func TestDialRefused(t *testing.T) {
	host, guest := pair(t)
	guest.Handle(func(r *Request) { r.Refuse() })
	if _, err := host.Dial(testContext(t), 1); !errors.Is(err, ErrRefused) {
		t.Errorf("with a handler that refuses: got %v, want ErrRefused", err)
	}
	guest.Handle(nil)
	if _, err := host.Dial(testContext(t), 1); !errors.Is(err, ErrRefused) {
		t.Errorf("with nobody there: got %v, want ErrRefused", err)
	}
	l, err := guest.Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guest.Listen(7); err == nil {
		t.Error("second Listen on one port succeeded")
	}
	l.Close()
	if _, err := host.Dial(testContext(t), 7); !errors.Is(err, ErrRefused) {
		t.Errorf("after the listener closed: got %v, want ErrRefused", err)
	}
}

func TestHandleSeesPort(t *testing.T) {
	host, guest := pair(t)
	host.Handle(func(r *Request) {
		if conn, err := r.Accept(); err == nil {
			fmt.Fprint(conn, r.Port)
			conn.Close()
		}
	})
	conn, err := guest.Dial(testContext(t), 4000000000)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "4000000000" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestDialEndsWithContext(t *testing.T) {
	host, _ := pair(t) // the guest never serves, so the request waits
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := host.Dial(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestHalfClose(t *testing.T) {
	host, guest := pair(t)
	a, b := dial(t, host, guest, 1)
	defer a.Close()
	if _, err := a.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	if string(got) != "question" || err != nil {
		t.Fatalf("got %q, %v before EOF", got, err)
	}
	// The other direction is open: more than one window goes through it.
	answer := make([]byte, 2*window)
	go func() {
		b.Write(answer)
		b.Close()
	}()
	if got, err := io.ReadAll(a); len(got) != len(answer) || err != nil {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(answer))
	}
	if _, err := a.Write([]byte("x")); err == nil {
		t.Error("Write after CloseWrite succeeded")
	}
}

// A full Close must end the peer's writer, as EPIPE does on a socket.
func TestCloseEndsPeersWriter(t *testing.T) {
	host, guest := pair(t)
	a, b := dial(t, host, guest, 1)
	written := make(chan error, 1)
	go func() {
		_, err := io.Copy(b, zeros{})
		written <- err
	}()
	if _, err := io.ReadFull(a, make([]byte, 4*window)); err != nil {
		t.Fatal(err)
	}
	a.Close()
	select {
	case err := <-written:
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("got %v, want EPIPE", err)
		}
	case <-testContext(t).Done():
		t.Fatal("the peer's Write still blocks")
	}
	b.Close()
}

// What was written before Close arrives, however late it is read.
func TestCloseKeepsWhatWasWritten(t *testing.T) {
	host, guest := pair(t)
	a, b := dial(t, host, guest, 1)
	const size = window / 2
	if _, err := a.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := b.Write([]byte("x")); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write: got %v", err)
	}
	if got, err := io.ReadAll(b); len(got) != size || err != nil {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, size)
	}
	b.Close()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestStalledConnDoesNotStallOthers(t *testing.T) {
	host, guest := pair(t)
	stalled, _ := dial(t, host, guest, 1)
	go io.Copy(stalled, zeros{})
	a, b := dial(t, host, guest, 2)
	go io.Copy(b, b)
	for range 100 {
		if _, err := a.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(a, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeadlinesAndClose(t *testing.T) {
	host, guest := pair(t)
	a, b := dial(t, host, guest, 1)
	a.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read past its deadline: got %v", err)
	}
	a.SetReadDeadline(time.Time{})
	read := make(chan error, 1)
	go func() {
		_, err := a.Read(make([]byte, 1))
		read <- err
	}()
	a.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("blocked Read after Close: got %v, want net.ErrClosed", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: got %v, want net.ErrClosed", err)
	}
	b.Close()
}

func TestEndOfSessionIsNoEOF(t *testing.T) {
	host, guest := pair(t)
	a, _ := dial(t, host, guest, 1)
	guest.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrSessionEnded) {
		t.Errorf("Read: got %v, want ErrSessionEnded", err)
	}
	<-host.Done()
	if _, err := host.Dial(testContext(t), 1); !errors.Is(err, ErrSessionEnded) {
		t.Errorf("Dial: got %v, want ErrSessionEnded", err)
	}
}

func TestTooManyConns(t *testing.T) {
	host, guest := pair(t)
	guest.Handle(func(r *Request) { r.Accept() })
	var conns []net.Conn
	for range MaxConns {
		c, err := host.Dial(testContext(t), 1)
		if err != nil {
			t.Fatalf("connection %d: %v", len(conns), err)
		}
		conns = append(conns, c)
	}
	if _, err := host.Dial(testContext(t), 1); !errors.Is(err, ErrTooManyConns) {
		t.Errorf("got %v, want ErrTooManyConns", err)
	}
	if _, err := guest.Dial(testContext(t), 1); !errors.Is(err, ErrTooManyConns) {
		t.Errorf("other end: got %v, want ErrTooManyConns", err)
	}
}

// port is a carrier that outlives sessions, as a virtio-serial port does: closing it ends the I/O
// of its user alone.
type port struct{ net.Conn }

func (p port) Close() error { return p.SetDeadline(time.Unix(0, 1)) }

// A guest whose agent was killed in the middle of a frame, and a host which has garbage of the old
// session in its port, find together again.
func TestNewSessionOnUsedPort(t *testing.T) {
	a, b := wire(t)
	for round := range 3 {
		a.SetDeadline(time.Time{})
		b.SetDeadline(time.Time{})
		host, guest := connect(t, port{a}, port{b})
		x, y := dial(t, host, guest, uint32(round))
		go io.Copy(x, zeros{})
		io.ReadFull(y, make([]byte, 4*window))
		guest.Close()
		host.Close()
	}
}

func TestGuestAloneBreaksHostsSession(t *testing.T) {
	a, b := wire(t)
	host, guest := connect(t, port{a}, port{b})
	guest.Close()
	b.SetDeadline(time.Time{})
	ctx := testContext(t)
	started := make(chan error, 1)
	go func() {
		s, err := Guest(ctx, port{b})
		if err == nil {
			t.Cleanup(func() { s.Close() })
		}
		started <- err
	}()
	select {
	case <-host.Done():
	case <-ctx.Done():
		t.Fatal("the guest's new hello did not end the host's old session")
	}
	host.Close()
	a.SetDeadline(time.Time{})
	again, err := Host(ctx, port{a})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
}

func BenchmarkThroughput(b *testing.B) {
	host, guest := pair(b)
	x, y := dial(b, host, guest, 1)
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	go func() {
		for range b.N {
			x.Write(chunk)
		}
		x.Close()
	}()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{y}); err != nil {
		b.Fatal(err)
	}
}
