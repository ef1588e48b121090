package fcqemu

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/vsockmux"
)

// bridged gives a bridge to a guest without QEMU, and a way to connect to it.
func bridged(t *testing.T) (guest *vsockmux.Session, connect func(t *testing.T, request string) *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v")
	b, err := listenVsock(path, slog.New(slog.DiscardHandler), newMetrics())
	if err != nil {
		t.Fatal(err)
	}
	hostEnd, guestEnd := net.Pipe()
	greeted := make(chan error, 1)
	go func() {
		var err error
		guest, err = vsockmux.Guest(t.Context(), guestEnd)
		greeted <- err
	}()
	host, err := vsockmux.Host(t.Context(), hostEnd)
	if err := errors.Join(err, <-greeted); err != nil {
		t.Fatal(err)
	}
	b.setSession(host)
	go b.serve(t.Context())
	t.Cleanup(func() {
		b.close()
		host.Close()
		guest.Close()
	})
	return guest, func(t *testing.T, request string) *net.UnixConn {
		t.Helper()
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		return conn.(*net.UnixConn)
	}
}

// What is sent behind the request reaches the guest before it has accepted; the answer comes all
// the same before the guest's data.
func TestBridgeDoesNotWait(t *testing.T) {
	guest, connect := bridged(t)
	requests := make(chan *vsockmux.Request)
	guest.Handle(func(r *vsockmux.Request) { requests <- r })

	long := strings.Repeat("x", 100<<10)
	conn := connect(t, "CONNECT 52\n"+long)
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	accepted, err := (<-requests).Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(accepted); string(got) != long || err != nil {
		t.Errorf("the guest got %d bytes, %v, want %d", len(got), err, len(long))
	}
	fmt.Fprint(accepted, "answer")
	accepted.Close()
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); !strings.HasPrefix(line, "OK ") || err != nil {
		t.Errorf("the VMM answered %q, %v", line, err)
	}
	if got, err := io.ReadAll(r); string(got) != "answer" || err != nil {
		t.Errorf("the host got %q, %v", got, err)
	}

	conn = connect(t, "CONNECT 53\n"+long)
	(<-requests).Refuse()
	if got, err := io.ReadAll(conn); len(got) != 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("refused: got %q, %v, want no word", got, err)
	}

	conn = connect(t, "CONNECT 54\n"+long)
	<-requests // and the agent dies
	guest.Close()
	if got, err := io.ReadAll(conn); len(got) != 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the agent died: got %q, %v, want no word", got, err)
	}
}
