// Package accept takes connections from a listener that is to live as long as its process: what
// passes, such as a lack of descriptors that a guest can bring about, must not end it, and must not
// take a CPU either.
package accept

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// pause follows an error that passes. Who connects meanwhile waits in the listener's backlog.
const pause = 100 * time.Millisecond

// Next returns the next connection. An error that passes is told to failed, and it tries again
// after a pause. It returns an error when the listener has ended, which is net.ErrClosed when it
// was closed, or when ctx ends in a pause.
func Next(ctx context.Context, listener net.Listener, failed func(error)) (net.Conn, error) {
	for {
		conn, err := listener.Accept()
		if err == nil || hasEnded(err) {
			return conn, err
		}
		failed(err)
		if err := Pause(ctx); err != nil {
			return nil, err
		}
	}
}

// Pause waits as Next does after an error that passes, or until ctx ends.
func Pause(ctx context.Context) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hasEnded reports whether no later call can succeed: the listener was closed, or its socket is
// none that listens (accept(2)).
func hasEnded(err error) bool {
	for _, end := range []error{net.ErrClosed, syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}
