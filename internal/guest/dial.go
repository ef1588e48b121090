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

const maxAnswerBytes = 32 // of "OK 4294967295\n"

// DialVsock gives a dialer for a guest's port through Firecracker's vsock socket: "CONNECT PORT\n" is answered by
// "OK HOSTPORT\n", and from there the stream is the guest's; docs/vsock.md of Firecracker. When nothing listens in the
// guest the VMM closes the connection without an answer.
func DialVsock(udsPath string, port uint32) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", udsPath)
		if err != nil {
			return nil, fmt.Errorf("dial vsock socket: %w", err)
		}
		if err := connectPort(ctx, conn, port); err != nil {
			conn.Close()
			return nil, fmt.Errorf("connect to guest port %d: %w", port, err)
		}
		return conn, nil
	}
}

func connectPort(ctx context.Context, conn net.Conn, port uint32) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(0, 1)) })
	_, err := fmt.Fprintf(conn, "CONNECT %d\n", port)
	var answer string
	if err == nil {
		answer, err = readLine(conn)
	}
	switch {
	case !stop():
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded
	case err != nil:
		return err
	case !strings.HasPrefix(answer, "OK "):
		return fmt.Errorf("the VMM answered %q", answer)
	}
	return nil
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
