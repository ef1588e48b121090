package vsockmux

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// Data goes along with the request: the acceptor has it before it has answered.
func TestOpen(t *testing.T) {
	host, guest := pair(t)
	l, err := guest.Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	c, err := host.Open(7)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "question")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Accepted(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(accepted); string(got) != "question" || err != nil {
		t.Errorf("the acceptor got %q, %v", got, err)
	}
	fmt.Fprint(accepted, "answer")
	accepted.Close()
	if got, err := io.ReadAll(c); string(got) != "answer" || err != nil {
		t.Errorf("the dialer got %q, %v", got, err)
	}
	wantNoConns(t, host, guest)
}

// More is written than a window takes, to a port that refuses: the writer ends, and nothing is
// left.
func TestOpenRefused(t *testing.T) {
	host, guest := pair(t)
	requests := make(chan *Request)
	guest.Handle(func(r *Request) { requests <- r })
	c, err := host.Open(7)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, 2*window))
		written <- err
	}()
	(<-requests).Refuse()
	if err := <-written; !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write: %v, want EPIPE", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrRefused) {
		t.Errorf("Read: %v, want ErrRefused", err)
	}
	if err := c.Accepted(testContext(t)); !errors.Is(err, ErrRefused) {
		t.Errorf("Accepted: %v, want ErrRefused", err)
	}
	wantNoConns(t, host, guest)
	// The session goes on, whatever data the refusal has crossed.
	a, b := dial(t, host, guest, 8)
	a.Close()
	b.Close()
}

// wantNoConns waits until both ends have forgotten all connections.
func wantNoConns(t *testing.T, sessions ...*Session) {
	t.Helper()
	for _, s := range sessions {
		for ctx := testContext(t); ; {
			s.mu.Lock()
			n := len(s.conns)
			s.mu.Unlock()
			if n == 0 {
				break
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%d connections are left", n)
			}
		}
	}
}

// A Close is the end at both ends, though the other is not closed, and data is on the way to it.
func TestCloseForgets(t *testing.T) {
	host, guest := pair(t)
	for range MaxConns/100 + 1 { // more than may stand at a time
		var left []net.Conn
		for range 100 {
			a, b := dial(t, host, guest, 1)
			fmt.Fprint(b, "for nobody")
			a.Close()
			left = append(left, b)
		}
		wantNoConns(t, host, guest)
		for _, b := range left {
			b.Close()
		}
	}
}

// rawGuest is a host's session and the bare stream to it.
func rawGuest(t *testing.T) (*Session, net.Conn) {
	t.Helper()
	a, b := wire(t)
	ctx := testContext(t)
	greeted := make(chan error, 1)
	go func() { greeted <- helloGuest(ctx, bufio.NewReader(b), b) }()
	host, err := Host(ctx, a)
	if err := errors.Join(err, <-greeted); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return host, b
}

// Whatever breaks the protocol ends the session.
func TestBrokenProtocol(t *testing.T) {
	open := func(id uint32) []byte { return append(header{kind: frameOpen, id: id}.append(nil), 0, 0, 0, 1) }
	data := func(n int) []byte { return append(header{frameData, n, 2}.append(nil), make([]byte, n)...) }
	tests := map[string][]byte{
		"a kind there is not":   header{kind: frameClose + 1, id: 1}.append(nil),
		"an id of the host's":   open(3),
		"an id that is taken":   append(open(2), open(2)...),
		"a frame too long":      header{frameData, window + 1, 2}.append(open(2)),
		"more than the window":  append(append(open(2), data(window)...), data(1)...),
		"data behind the end":   append(header{kind: frameEnd, id: 2}.append(open(2)), data(1)...),
		"credit for nothing":    header{frameCredit, 1, 2}.append(open(2)),
		"a second answer":       header{kind: frameAccept, id: 1}.append(header{kind: frameAccept, id: 1}.append(nil)),
		"the end of the stream": nil,
	}
	for name, frames := range tests {
		t.Run(name, func(t *testing.T) {
			host, raw := rawGuest(t)
			host.Handle(func(r *Request) {})
			if _, err := host.Open(1); err != nil {
				t.Fatal(err)
			}
			if _, err := raw.Write(frames); err != nil {
				t.Fatal(err)
			}
			if frames == nil {
				raw.Close()
			}
			select {
			case <-host.Done():
			case <-testContext(t).Done():
				t.Error("the session goes on")
			}
		})
	}
	t.Run("frames of nobody", func(t *testing.T) {
		host, raw := rawGuest(t)
		for kind := byte(frameAccept); kind <= frameClose; kind++ {
			raw.Write(header{kind: kind, id: 99}.append(nil))
		}
		raw.Write(append(header{frameData, 3, 99}.append(nil), "xyz"...))
		raw.Write(open(2))
		host.Handle(func(r *Request) { r.Accept() })
		if h, err := readHeader(raw); h.kind != frameAccept || err != nil {
			t.Errorf("answered %v, %v", h, err)
		}
	})
}

// A guest that asks for ever and never reads is cut off, before it has filled the host's memory.
func TestPeerThatDoesNotRead(t *testing.T) {
	host, raw := rawGuest(t)
	host.Handle(nil) // refuses
	var asked bytes.Buffer
	for id := uint32(2); ; id += 2 {
		asked.Write(append(header{kind: frameOpen, id: id}.append(nil), 0, 0, 0, 1))
		if asked.Len() < 1<<20 {
			continue
		}
		if _, err := asked.WriteTo(raw); err != nil {
			break
		}
	}
	<-host.Done()
	if n := len(host.out.frames); n > queueLimit+headerBytes {
		t.Errorf("%d bytes of answers wait", n)
	}
}
