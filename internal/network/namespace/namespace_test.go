package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"banger/internal/network"
	"banger/internal/network/plan"
)

// fakeHolder answers requests when the test says so.
type fakeHolder struct {
	dir    network.Dir
	asked  chan plan.Request
	answer chan plan.Reply
}

func newFakeHolder(t *testing.T) *fakeHolder {
	t.Helper()
	f := &fakeHolder{network.Dir(t.TempDir()), make(chan plan.Request, 8), make(chan plan.Reply)}
	listener, err := net.Listen("unix", f.dir.HolderSocket())
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.serve(t.Context(), conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return f
}

func (f *fakeHolder) serve(ctx context.Context, conn net.Conn) {
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	reply := plan.Reply{PID: os.Getpid()}
	for out.Encode(reply) == nil {
		var request plan.Request
		if in.Decode(&request) != nil {
			return
		}
		f.asked <- request
		select {
		case reply = <-f.answer:
		case <-ctx.Done():
			return
		}
	}
}

func (f *fakeHolder) open(t *testing.T) *Namespace {
	t.Helper()
	h, err := Open(t.Context(), f.dir, nil, true)
	check(t, err)
	t.Cleanup(func() {
		if h.conn != nil {
			_ = h.hangUp()
		}
	})
	return h
}

// A request that the holder does not answer in time is cut short; the next one gets its own answer,
// on a new connection.
func TestHolderAnswersLate(t *testing.T) {
	fake := newFakeHolder(t)
	h := fake.open(t)
	h.timeout = 20 * time.Millisecond
	if err := h.Apply(plan.State{MTU: 1}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want that it took too long", err)
	}
	<-fake.asked
	h.timeout = RequestTimeout
	second := make(chan error, 1)
	go func() { second <- h.Apply(plan.State{MTU: 2}) }()
	fake.answer <- plan.Reply{Error: "the late one"}
	if request := <-fake.asked; request.State.MTU != 2 {
		t.Errorf("the holder was asked for %+v", request.State)
	}
	fake.answer <- plan.Reply{}
	check(t, <-second)
}

func TestHolderIsAnother(t *testing.T) {
	fake := newFakeHolder(t)
	h := fake.open(t)
	h.PID = 1
	check(t, h.hangUp())
	if err := h.Apply(plan.State{}); err == nil || !strings.Contains(err.Error(), "find holder 1") {
		t.Errorf("got %v, want that the holder is another", err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
