package dns

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
)

// short is a listener without descriptors at first, which is then closed.
type short struct {
	net.Listener
	left int
}

func (s *short) Accept() (net.Conn, error) {
	if s.left--; s.left >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return nil, net.ErrClosed
}

// The library takes EMFILE for a reason to try again at once, and ENOMEM for one to end the server.
func TestShortageDoesNotReachTheLibrary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newBoundedListener(t.Context(), &short{left: 3}, slog.New(slog.DiscardHandler))
		if conn, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, %v, want the listener's end", conn, err)
		}
	})
}
