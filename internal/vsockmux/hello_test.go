package vsockmux

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

func TestReadFrame(t *testing.T) {
	f := frame{kind: kindHello, version: version, nonce: [nonceSize]byte{1, 2, 3}}
	whole := f.append(nil)
	tests := []struct {
		name string
		in   []byte
	}{
		{"alone", whole},
		{"behind garbage", append([]byte("Linux version 6.12\n\x00\x00"), whole...)},
		{"behind a cut frame", append(bytes.Clone(whole[:5]), whole...)},
		{"behind the magic's first byte", append([]byte("\xff\xff\xff"), whole...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readFrame(bufio.NewReader(bytes.NewReader(tt.in)))
			if got != f || err != nil {
				t.Errorf("got %v, %v; want %v", got, err, f)
			}
		})
	}
	if _, err := readFrame(bufio.NewReader(bytes.NewReader(whole[:frameSize-1]))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: got %v, want io.ErrUnexpectedEOF", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(frame{kind: kindStart, version: version}.append([]byte("\xff\xffvs")))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := readFrame(bufio.NewReader(bytes.NewReader(in)))
		if err == nil && !bytes.Contains(in, got.append(nil)) {
			t.Errorf("%v is not in the input", got)
		}
	})
}

// A hostile guest's bytes never panic or hang the host.
func FuzzHost(f *testing.F) {
	hello := frame{kind: kindHello, version: version}
	start := frame{kind: kindStart, version: version}
	f.Add(start.append(hello.append(nil)))
	greeting := start.append(hello.append(nil))
	f.Add(header{frameData, 3, 2}.append(append(header{kind: frameOpen, id: 2}.append(greeting), 0, 0, 0, 52)))
	f.Add(header{kind: frameClose, id: 2}.append(header{frameCredit, window, 2}.append(greeting)))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := wire(t)
		go func() {
			b.Write(in)
			b.Close()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s, err := Host(ctx, a)
		if err == nil {
			<-s.Done()
			s.Close()
		}
		if ctx.Err() != nil {
			t.Error("Host hangs on a stream that has ended")
		}
	})
}

func TestVersionMismatch(t *testing.T) {
	t.Run("host", func(t *testing.T) {
		a, b := wire(t)
		b.Write(frame{kind: kindHello, version: version + 1}.append(nil))
		if _, err := Host(testContext(t), a); !errors.Is(err, ErrVersion) {
			t.Errorf("got %v, want ErrVersion", err)
		}
		// The guest is told with which version it would have got on.
		f, err := readFrame(bufio.NewReader(b))
		if f.kind != kindReply || f.version != version || err != nil {
			t.Errorf("guest was told %v, %v", f, err)
		}
	})
	t.Run("guest", func(t *testing.T) {
		a, b := wire(t)
		go func() {
			f, _ := readFrame(bufio.NewReader(a))
			a.Write(frame{kind: kindReply, version: version + 1, nonce: f.nonce}.append(nil))
		}()
		if _, err := Guest(testContext(t), b); !errors.Is(err, ErrVersion) {
			t.Errorf("got %v, want ErrVersion", err)
		}
	})
}

func TestHelloEndsWithContext(t *testing.T) {
	a, _ := wire(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Host(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Host: got %v, want the context's error", err)
	}
	_, b := wire(t)
	if _, err := Guest(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Guest: got %v, want the context's error", err)
	}
}
