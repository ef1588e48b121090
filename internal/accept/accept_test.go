package accept

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a listener whose Accept returns these errors in turn, then a connection.
type fake struct {
	net.Listener
	errs []error
}

func (f *fake) Accept() (net.Conn, error) {
	if len(f.errs) == 0 {
		return &net.TCPConn{}, nil
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
}

func TestNext(t *testing.T) {
	for _, tt := range []struct {
		name   string
		errs   []error
		want   error // nil: a connection
		failed int
	}{
		{"OK", nil, nil, 0},
		{"NoDescriptors", []error{syscall.EMFILE, syscall.ENFILE}, nil, 2},
		{"NoMemory", []error{syscall.ENOMEM, syscall.ENOBUFS}, nil, 2},
		{"GoneBefore", []error{syscall.ECONNABORTED}, nil, 1},
		{"ErrClosed", []error{net.ErrClosed}, net.ErrClosed, 0},
		{"ErrClosedLater", []error{syscall.EMFILE, net.ErrClosed}, net.ErrClosed, 1},
		{"ErrShutDown", []error{syscall.EINVAL}, syscall.EINVAL, 0},
		{"ErrNoSocket", []error{syscall.ENOTSOCK}, syscall.ENOTSOCK, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, failed := time.Now(), 0
				conn, err := Next(t.Context(), &fake{errs: tt.errs}, func(error) { failed++ })
				if (conn != nil) != (tt.want == nil) || !errors.Is(err, tt.want) || failed != tt.failed {
					t.Errorf("got %v, %v and %d failures, want %v and %d", conn, err, failed, tt.want, tt.failed)
				}
				if got, want := time.Since(began), time.Duration(tt.failed)*pause; got != want {
					t.Errorf("took %s, want a pause for each failure, %s", got, want)
				}
			})
		})
	}
}

// A listener that fails for ever does not outlive its owner.
func TestNextEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), pause+pause/2)
		defer cancel()
		errs := []error{syscall.EMFILE, syscall.EMFILE, syscall.EMFILE}
		if _, err := Next(ctx, &fake{errs: errs}, func(error) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's end", err)
		}
	})
}
