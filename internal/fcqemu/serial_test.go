package fcqemu

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/time/rate"
)

func TestLimitedSerial(t *testing.T) {
	var out bytes.Buffer
	m := newMetrics()
	s := limitedSerial{&out, serialOutput{limit: rate.NewLimiter(1e-9, 10)}, m} // no refill while the test runs
	for _, text := range []string{"12345", "6789abcdef", "ghi"} {
		if n, err := s.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("write %q: %d, %v", text, n, err)
		}
	}
	if got, want := out.String(), "123456789a"; got != want {
		t.Errorf("passed %q, want %q", got, want)
	}
	if got, want := m.counts["uart rate_limiter_dropped_bytes"], int64(8); got != want {
		t.Errorf("%d bytes counted as dropped, want %d", got, want)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// A console that cannot be written does not stop the guest.
func TestLimitedSerialFull(t *testing.T) {
	m := newMetrics()
	s := limitedSerial{full{}, serialOutput{limit: rate.NewLimiter(1, 10)}, m}
	if n, err := s.Write([]byte("text")); n != 4 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	if got := m.counts["uart rate_limiter_dropped_bytes"]; got != 4 {
		t.Errorf("%d bytes counted as dropped, want 4", got)
	}
}
