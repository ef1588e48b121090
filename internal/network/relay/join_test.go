package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// tcpPair returns both ends of a connection. The ends' buffers are small, so that much gets stuck.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer listener.Close()
	a, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	must(t, err)
	t.Cleanup(func() { a.Close() })
	b, err = listener.AcceptTCP()
	must(t, err)
	t.Cleanup(func() { b.Close() })
	for _, conn := range []*net.TCPConn{a, b} {
		must(t, errors.Join(conn.SetReadBuffer(64<<10), conn.SetWriteBuffer(64<<10), conn.SetDeadline(time.Now().Add(time.Minute))))
	}
	return a, b
}

// joined returns the outer ends of two connections whose inner ones are joined, and what is closed
// when that has ended.
func joined(t *testing.T) (a, b *net.TCPConn, ended chan struct{}) {
	t.Helper()
	a, innerA := tcpPair(t)
	b, innerB := tcpPair(t)
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		join(innerA, innerB)
		innerA.Close()
		innerB.Close()
	}()
	t.Cleanup(func() { // before those of tcpPair
		a.Close()
		b.Close()
		<-ended
	})
	return a, b, ended
}

func TestJoin(t *testing.T) {
	before := pipes(t)
	t.Run("BothWays", func(t *testing.T) {
		a, b, ended := joined(t)
		var all errgroup.Group
		for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
			sent := make([]byte, 3*chunkBytes+1)
			_, _ = rand.NewChaCha8([32]byte{}).Read(sent)
			all.Go(func() error {
				_, err := way[0].Write(sent)
				return errors.Join(err, way[0].CloseWrite())
			})
			all.Go(func() error {
				got, err := io.ReadAll(way[1])
				if err == nil && !bytes.Equal(got, sent) {
					err = errors.New("it is not what was sent")
				}
				return err
			})
		}
		must(t, all.Wait())
		<-ended
	})
	t.Run("HalfClosed", func(t *testing.T) {
		a, b, _ := joined(t)
		must(t, a.CloseWrite())
		if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("read %d bytes, %v, want the end", n, err)
		}
		_, err := b.Write([]byte("still"))
		must(t, err)
		_, err = io.ReadFull(a, make([]byte, 5))
		must(t, err)
	})
	t.Run("Reset", func(t *testing.T) {
		a, b, ended := joined(t)
		reset(a)
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset", err)
		}
		<-ended
	})
	t.Run("ResetWhileStuck", func(t *testing.T) {
		a, b, ended := joined(t)
		fill(t, a)
		reset(b)
		<-ended
	})
	t.Run("NoPipes", func(t *testing.T) {
		a, _, _ := joined(t) // quiet one way
		fill(t, a)           // and stuck the other
		if now := pipes(t); now != before {
			t.Errorf("%d pipes, want %d", now, before)
		}
	})
}

// fill writes to a connection until it takes no more, because nobody reads.
func fill(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	must(t, conn.SetWriteDeadline(time.Now().Add(time.Second)))
	n, err := io.Copy(conn, struct{ io.Reader }{io.LimitReader(endless{}, 64<<20)})
	if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote %d bytes, %v, want less than all of them", n, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// pipes counts this process's descriptors of pipes (proc_pid_fd(5)).
func pipes(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range all {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
