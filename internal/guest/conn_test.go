package guest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"banger/internal/guest"
	agentv1 "banger/proto/agent/v1"
)

// What the first Write says goes along with the request, and the first Read takes the VMM's answer.
func TestOpenVsock(t *testing.T) {
	tests := []struct{ name, answer, want, wantErr string }{
		{"OK", "OK 1073741824\nfirst bytes", "first bytes", ""},
		{"ErrClosed", "", "", "read answer: EOF"},
		{"ErrOther", "NO\n", "", `the VMM answered "NO"`},
		{"ErrLong", strings.Repeat("x", 100), "", "read answer: no line within 32 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			socket, said := vmm(t, tt.answer)
			conn, err := guest.OpenVsock(socket, 1025)(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if n, err := io.WriteString(conn, "hello"); n != 5 || err != nil {
				t.Errorf("wrote %d bytes, %v", n, err)
			}
			if got := <-said; got != "CONNECT 1025\nhello" {
				t.Errorf("the VMM heard %q at once", got)
			}
			got, err := io.ReadAll(conn)
			if tt.wantErr == "" && (string(got) != tt.want || err != nil) {
				t.Errorf("read %q, %v, want %q", got, err, tt.want)
			}
			if tt.wantErr != "" && (err == nil || err.Error() != tt.wantErr) {
				t.Errorf("read %v, want %s", err, tt.wantErr)
			}
		})
	}
}

// answering gives a dialer to an agent that takes what comes, says its answer and goes.
func answering(answer string) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		host, agent := net.Pipe()
		go func() {
			go io.Copy(io.Discard, agent)
			io.WriteString(agent, answer)
			agent.Close()
		}()
		return host, nil
	}
}

// Connect does not wait; the first Recv says what became of it.
func TestConnectErr(t *testing.T) {
	tests := []struct {
		name, answer string
		want         error
	}{
		{"Refused", agentv1.StreamAnswer(errors.New("connection refused")), guest.ErrInvalid},
		{"Gone", "", guest.ErrUnreachable}, // the VMM's session or the guest ended
		{"GoneBehindTheAnswer", agentv1.StreamAnswer(nil), guest.ErrUnreachable},
		{"Nonsense", "perhaps\n", guest.ErrUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := guest.Connect(t.Context(), answering(tt.answer), "tcp", 80)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Send([]byte("hello")); err != nil && !errors.Is(err, guest.ErrUnreachable) {
				t.Errorf("Send: %v", err)
			}
			if _, err := conn.Recv(); !errors.Is(err, tt.want) {
				t.Errorf("Recv: %v, want %v", err, tt.want)
			}
		})
	}
}

// A guest that never answers is given up; one that has answered may be silent for as long as it
// likes.
func TestConnectTimeout(t *testing.T) {
	connect := func(t *testing.T, agent func(net.Conn)) *guest.Conn {
		host, guestEnd := net.Pipe()
		go func() {
			go io.Copy(io.Discard, guestEnd)
			agent(guestEnd)
		}()
		conn, err := guest.Connect(t.Context(), func(context.Context) (net.Conn, error) { return host, nil }, "tcp", 80)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	synctest.Test(t, func(t *testing.T) {
		conn := connect(t, func(net.Conn) {})
		if _, err := conn.Recv(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Recv: %v, want a deadline", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		conn := connect(t, func(agent net.Conn) {
			io.WriteString(agent, agentv1.StreamAnswer(nil))
			time.AfterFunc(time.Hour, func() { agentv1.WriteStreamEnd(agent) })
		})
		if _, err := conn.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("Recv: %v, want the end", err)
		}
	})
}
