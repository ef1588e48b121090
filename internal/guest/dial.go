package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

const (
	maxAnswerBytes = 32 // of "OK 4294967295\n"
	// acceptTimeout is how long a VMM may take to accept a connection to its socket.
	acceptTimeout = 15 * time.Second
)

// DialVsock gives a dialer for a guest's port through Firecracker's vsock socket: "CONNECT PORT\n"
// is answered by "OK HOSTPORT\n", and from there the stream is the guest's; docs/vsock.md of
// Firecracker. When nothing listens in the guest the VMM closes the connection without an answer.
func DialVsock(udsPath string, port uint32) func(context.Context) (net.Conn, error) {
	open := OpenVsock(udsPath, port)
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := open(ctx)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(0, 1)) })
		_, err = conn.Write(nil)
		if err == nil {
			_, err = conn.Read(nil)
		}
		if !stop() {
			err = context.Cause(ctx)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			err = context.DeadlineExceeded
		}
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("connect to guest port %d: %w", port, err)
		}
		return conn, nil
	}
}

// OpenVsock gives a dialer like DialVsock's that waits for nobody in the guest, where each answer
// that is awaited costs an emulated one milliseconds: "CONNECT PORT\n" goes along with the first
// Write, and the first Read takes the answer. A VMM keeps what follows its request until the guest
// has accepted.
func OpenVsock(udsPath string, port uint32) func(context.Context) (net.Conn, error) {
	request := fmt.Sprintf("CONNECT %d\n", port)
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: acceptTimeout}).DialContext(ctx, "unix", udsPath)
		if err != nil {
			return nil, fmt.Errorf("dial vsock socket: %w", err)
		}
		return &vsockConn{Conn: conn, request: request}, nil
	}
}

type vsockConn struct {
	net.Conn
	request  string // "" once it is written; only Write may look
	answered bool   // only Read may
}

func (c *vsockConn) Write(b []byte) (int, error) {
	if c.request == "" {
		return c.Conn.Write(b)
	}
	ahead := len(c.request)
	n, err := c.Conn.Write(append([]byte(c.request), b...)) // in one: the VMM wants its line whole
	c.request = ""
	return max(n-ahead, 0), err
}

func (c *vsockConn) Read(b []byte) (int, error) {
	if !c.answered {
		answer, err := readLine(c.Conn)
		if err != nil {
			return 0, err
		}
		if !strings.HasPrefix(answer, "OK ") {
			return 0, fmt.Errorf("the VMM answered %q", answer)
		}
		if c.answered = true; len(b) == 0 {
			return 0, nil
		}
	}
	return c.Conn.Read(b)
}

// readLine reads byte by byte, for what follows the line belongs to the guest's stream.
func readLine(conn net.Conn) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxAnswerBytes {
		if _, err := conn.Read(b[:]); err != nil {
			return "", fmt.Errorf("read answer: %w", err)
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", fmt.Errorf("read answer: no line within %d bytes", maxAnswerBytes)
}
