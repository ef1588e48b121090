package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// maxTries is how often something is tried.
const maxTries = 4

// Why a download fails, beside a StatusError and the errors of connections and files.
var (
	ErrStalled  = errors.New("download stalled")
	ErrContent  = errors.New("download has the wrong content")
	ErrTooLarge = errors.New("download is larger than allowed")
)

// StatusError is an HTTP status that is an answer other than the file.
type StatusError int

func (e StatusError) Error() string { return fmt.Sprintf("%d %s", int(e), http.StatusText(int(e))) }

// Passes reports whether the server may answer otherwise later: it is busy, not "no such file".
func (e StatusError) Passes() bool {
	switch e {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusRequestedRangeNotSatisfiable:
		return true
	}
	return e >= 500
}

// Final marks an error after which Retry does not try again.
func Final(err error) error { return final{err} }

type final struct{ error }

func (e final) Unwrap() error { return e.error }

// passing reports whether another try may succeed. Most faults of a line may pass, and they have
// many types.
func passing(err error) bool {
	if status, ok := errors.AsType[StatusError](err); ok {
		return status.Passes()
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return false
	}
	_, marked := errors.AsType[final](err)
	_, local := errors.AsType[*os.PathError](err) // this host's disk refused
	_, distrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return !marked && !local && !distrusted && !errors.Is(err, ErrContent) && !errors.Is(err, ErrTooLarge) &&
		!errors.Is(err, syscall.ECONNREFUSED)
}

// Retry does something over the net, again after a while when the fault may pass. The log calls it
// what.
func (c Client) Retry(ctx context.Context, what string, do func(context.Context) error) error {
	c = c.withDefaults()
	for try := 1; ; try++ {
		err := do(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if try == maxTries || !passing(err) {
			return err
		}
		c.Log.Info("tried again", "what", what, "try", try, "err", err)
		pause := time.NewTimer(c.Backoff << (try - 1))
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}
