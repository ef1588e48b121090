package guest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/guest"
)

// vmm answers each connection to a vsock socket with the next of answers, after it has read the
// first line.
func vmm(t *testing.T, answers ...string) (socket string, lines <-chan string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "v.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, len(answers))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, answer := range answers {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line := make([]byte, 64)
			n, _ := conn.Read(line)
			got <- string(line[:n])
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return socket, got
}

func TestDialVsock(t *testing.T) {
	tests := []struct{ name, answer, want, wantErr string }{
		{"OK", "OK 1073741824\nfirst bytes", "first bytes", ""},
		{"ErrClosed", "", "", "connect to guest port 1024: read answer: EOF"},
		{"ErrHalf", "OK 10", "", "connect to guest port 1024: read answer: EOF"},
		{"ErrOther", "NO\n", "", `connect to guest port 1024: the VMM answered "NO"`},
		{"ErrLong", strings.Repeat("x", 100), "", "connect to guest port 1024: read answer: no line within 32 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			socket, lines := vmm(t, tt.answer)
			conn, err := guest.DialVsock(socket, guest.Port)(t.Context())
			if line := <-lines; line != "CONNECT 1024\n" {
				t.Errorf("asked %q", line)
			}
			if tt.wantErr != "" {
				if err == nil || err.Error() != tt.wantErr {
					t.Errorf("got %v, want %s", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got, err := io.ReadAll(conn); string(got) != tt.want || err != nil {
				t.Errorf("read %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestDialVsockErr(t *testing.T) {
	if _, err := guest.DialVsock(filepath.Join(t.TempDir(), "none"), 1)(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := guest.DialVsock(l.Addr().String(), 1)(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a VMM that says nothing: %v, want a deadline", err)
	}
}

// A VMM accepts before the agent is there: WaitReady tries on, and gives up with the context and
// the reason.
func TestWaitReady(t *testing.T) {
	socket, lines := vmm(t, "", "", "")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	gaveUp := errors.New("enough")
	go func() {
		for range 3 {
			<-lines
		}
		cancel(gaveUp)
	}()
	c := guest.New(guest.DialVsock(socket, guest.Port))
	defer c.Close()
	if _, err := c.WaitReady(ctx); !errors.Is(err, gaveUp) {
		t.Errorf("got %v, want %v", err, gaveUp)
	}
}

// Another protocol ends the waiting at once, whatever else the agent answers.
func TestProtocolError(t *testing.T) {
	for header, want := range map[string]string{
		"2": "the machine runs an agent of protocol 2, this banger speaks 1: restart the machine",
		"":  "the machine runs an agent of an unknown protocol, this banger speaks 1: restart the machine",
	} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if header != "" {
				w.Header().Set("Banger-Agent-Protocol", header)
			}
		}))
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		c := guest.New(func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		})
		_, err := c.WaitReady(t.Context())
		var protocol *guest.ProtocolError
		if !errors.As(err, &protocol) || err.Error() != want {
			t.Errorf("agent of %q: got %v, want %s", header, err, want)
		}
		if _, err := c.Exec(t.Context(), guest.ExecSpec{Argv: []string{"true"}}); !errors.As(err, &protocol) {
			t.Errorf("agent of %q: Exec: %v", header, err)
		}
		c.Close()
		server.Close()
	}
}

// A connection that breaks fails the calls on it; the next call dials again.
func TestRedial(t *testing.T) {
	var conns []net.Conn
	_, socket := startAgentAt(t)
	c := guest.New(func(ctx context.Context) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		conns = append(conns, conn)
		return conn, err
	})
	defer c.Close()
	e, err := c.Exec(t.Context(), guest.ExecSpec{Argv: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	conns[0].Close()
	if _, err := e.Recv(); !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("Recv on a broken connection: %v, want ErrUnreachable", err)
	}
	if _, err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
	c.Close()
	if _, err := c.Health(t.Context()); !errors.Is(err, guest.ErrUnreachable) || len(conns) != 2 {
		t.Errorf("after Close: %v and %d connections, want ErrUnreachable and 2", err, len(conns))
	}
}
