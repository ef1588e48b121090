package fcqemu

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// serialOutput is where the console goes. With a limit it passes through this process, without it
// QEMU writes it.
type serialOutput struct {
	file  *os.File      // nil: standard output
	limit *rate.Limiter // nil: none
}

func (v *vmm) putSerial(c serial) error {
	var out serialOutput
	if c.SerialOutPath != nil {
		var err error
		if out.file, err = openOutput(*c.SerialOutPath); err != nil {
			return fmt.Errorf("Serial config error: %s", osError(err))
		}
	}
	if b := c.RateLimiter; b != nil && b.Size > 0 && b.RefillTime > 0 { // either 0 means no limit
		burst := min(b.Size, maxSerialBurst)
		out.limit = rate.NewLimiter(rate.Limit(b.rate()), int(burst))
	}
	v.serial.close()
	v.serial = out
	return nil
}

// maxSerialBurst keeps a bucket's size within an int.
const maxSerialBurst = 1 << 40

func (s serialOutput) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// direct reports whether QEMU itself writes the console's file.
func (s serialOutput) direct() bool { return s.file != nil && s.limit == nil }

// limitedSerial drops what exceeds the limit and counts it, as Firecracker does. It never fails: a
// console that cannot be written must not stop the guest.
type limitedSerial struct {
	out interface{ Write([]byte) (int, error) }
	serialOutput
	metrics *metrics
}

func (s limitedSerial) Write(p []byte) (int, error) {
	now := time.Now()
	n := max(0, min(len(p), int(s.limit.TokensAt(now))))
	s.limit.AllowN(now, n)
	written, _ := s.out.Write(p[:n])
	if dropped := len(p) - written; dropped > 0 {
		s.metrics.add("uart rate_limiter_dropped_bytes", int64(dropped))
	}
	return len(p), nil
}

// openOutput opens a file or FIFO to append to, as Firecracker does for logs and metrics.
func openOutput(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o600)
}
