package forward

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A read error that lasts is waited out: without a pause the clock here could not move, and the
// test would not end.
func TestReceivePausesWhileReadingFails(t *testing.T) {
	local, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if err := local.SetReadDeadline(time.Unix(1, 0)); err != nil { // so that each read fails
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		(&peers{Forward: &Forward{ctx: ctx}, local: local}).receive()
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("ended after %s with %v, want to end with the context", time.Since(began), ctx.Err())
		}
	})
}
