package api

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readOnly is a connection of which only the reading end matters.
type readOnly struct {
	net.Conn
	io.Reader
}

func (r readOnly) Read(p []byte) (int, error) { return r.Reader.Read(p) }

// writeOnly is a connection of which only the writing end matters.
type writeOnly struct {
	net.Conn
	io.Writer
}

func (w writeOnly) Write(p []byte) (int, error) { return w.Writer.Write(p) }

func framesFrom(data []byte) *FrameConn {
	return NewFrameConn(readOnly{Reader: bytes.NewReader(data)}, nil)
}

func frame(t FrameType, payload string) []byte {
	head := append([]byte{byte(t)}, binary.BigEndian.AppendUint32(nil, uint32(len(payload)))...)
	return append(head, payload...)
}

func TestFrameRead(t *testing.T) {
	full := frame(FrameStdout, strings.Repeat("x", MaxFramePayload))
	oversize := []byte{byte(FrameStdout), 0, 1, 0, 1} // 64 KiB and one byte
	tests := []struct {
		name    string
		in      []byte
		want    []string // type and payload of each frame
		wantErr string
	}{
		{"Empty", nil, nil, "EOF"},
		{"OneFrame", frame(FrameStdout, "hello"), []string{"4 hello"}, "EOF"},
		{"NoPayload", frame(FrameStdinClose, ""), []string{"1 "}, "EOF"},
		{"TwoFrames", append(frame(FrameStderr, "a"), frame(FrameExit, "{}")...), []string{"5 a", "6 {}"}, "EOF"},
		{"UnknownType", frame(200, "a"), []string{"200 a"}, "EOF"},
		{"Largest", full, []string{"4 " + strings.Repeat("x", MaxFramePayload)}, "EOF"},
		{"ErrOversize", oversize, nil, "read frame: 65537 bytes, at most 65536 are allowed"},
		{"ErrOversizeMost", []byte{4, 255, 255, 255, 255}, nil, "read frame: 4294967295 bytes, at most 65536 are allowed"},
		{"ErrCutHead", frame(FrameStdout, "hello")[:3], nil, "unexpected EOF"},
		{"ErrCutBehindHead", frame(FrameStdout, "hello")[:5], nil, "unexpected EOF"},
		{"ErrCutPayload", frame(FrameStdout, "hello")[:7], nil, "unexpected EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frames := framesFrom(tt.in)
			var got []string
			for {
				f, err := frames.Read()
				if err != nil {
					if err.Error() != tt.wantErr {
						t.Errorf("Read ended with %q, want %q", err, tt.wantErr)
					}
					break
				}
				got = append(got, string(appendInt(int(f.Type)))+" "+string(f.Payload))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("frames (-want +got):\n%s", diff)
			}
		})
	}
}

func appendInt(n int) []byte {
	if n < 10 {
		return []byte{byte('0' + n)}
	}
	return append(appendInt(n/10), byte('0'+n%10))
}

func TestFrameReadUsesBufferedBytes(t *testing.T) {
	buffered := bufio.NewReader(strings.NewReader(string(frame(FrameStdout, "early"))))
	f, err := NewFrameConn(readOnly{Reader: strings.NewReader("")}, buffered).Read()
	if err != nil || string(f.Payload) != "early" {
		t.Errorf("Read = %q, %v; want what was read ahead", f.Payload, err)
	}
}

// pair returns two ends of a connection, closed with the test.
func pair(t *testing.T) (a, b *FrameConn) {
	t.Helper()
	left, right := net.Pipe()
	t.Cleanup(func() { left.Close(); right.Close() })
	return NewFrameConn(left, nil), NewFrameConn(right, nil)
}

func TestFrameWrite(t *testing.T) {
	tests := []struct {
		name  string
		bytes int
		want  []int // payload of each frame
	}{
		{"Empty", 0, []int{0}},
		{"One", 1, []int{1}},
		{"Largest", MaxFramePayload, []int{MaxFramePayload}},
		{"OneMore", MaxFramePayload + 1, []int{MaxFramePayload, 1}},
		{"Three", 2*MaxFramePayload + 7, []int{MaxFramePayload, MaxFramePayload, 7}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			data := bytes.Repeat([]byte("abcdefg"), tt.bytes/7+1)[:tt.bytes]
			wrote := make(chan error, 1)
			go func() { wrote <- errors.Join(a.Write(FrameStdin, data), a.Close()) }()
			var sizes []int
			var all []byte
			for {
				f, err := b.Read()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil || f.Type != FrameStdin {
					t.Fatalf("Read = type %d, %v", f.Type, err)
				}
				sizes, all = append(sizes, len(f.Payload)), append(all, f.Payload...)
			}
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, sizes); diff != "" {
				t.Errorf("sizes (-want +got):\n%s", diff)
			}
			if !bytes.Equal(all, data) {
				t.Error("the bytes changed on their way")
			}
		})
	}
}

// Frames of several writers never mix, for output, acknowledgements and the exit share one
// connection. The exit is the last frame, whoever else still has something to say.
func TestFrameWriteAfterExit(t *testing.T) {
	var sent bytes.Buffer
	frames := NewFrameConn(writeOnly{Writer: &sent}, nil)
	if err := frames.WriteJSON(FrameExit, ExecExit{Code: 1}); err != nil {
		t.Fatal(err)
	}
	for _, late := range []FrameType{FrameStdinAck, FrameStdout, FrameExit} {
		if err := frames.Write(late, nil); err == nil {
			t.Errorf("frame %d was sent after the exit", late)
		}
	}
	if want := frame(FrameExit, `{"code":1}`); !bytes.Equal(sent.Bytes(), want) {
		t.Errorf("sent %q, want %q", sent.Bytes(), want)
	}
}

func TestFrameWriteConcurrently(t *testing.T) {
	const writers, each = 6, 50 // the types before FrameExit
	a, b := pair(t)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for range each {
				if err := a.Write(FrameType(w), bytes.Repeat([]byte{byte(w)}, 100+w)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	go func() { group.Wait(); a.Close() }()
	count := 0
	for ; ; count++ {
		f, err := b.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := bytes.Repeat([]byte{byte(f.Type)}, 100+int(f.Type)); !bytes.Equal(f.Payload, want) {
			t.Fatalf("frame of writer %d is mixed", f.Type)
		}
	}
	if count != writers*each {
		t.Errorf("%d frames came, want %d", count, writers*each)
	}
}

func TestFrameWriteJSON(t *testing.T) {
	a, b := pair(t)
	wrote := make(chan error, 1)
	go func() { wrote <- a.WriteJSON(FrameResize, TTY{Rows: 24, Cols: 80}) }()
	f, err := b.Read()
	if err != nil || f.Type != FrameResize || string(f.Payload) != `{"rows":24,"cols":80}` {
		t.Errorf("Read = %d %s, %v", f.Type, f.Payload, err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if err := a.WriteJSON(FrameResize, strings.Repeat("x", MaxFramePayload)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("oversize WriteJSON = %v, want a refusal", err)
	}
	if err := a.WriteJSON(FrameResize, func() {}); err == nil {
		t.Error("WriteJSON of a function was accepted")
	}
}

// Whatever a peer sends, Read ends, keeps the bound, and gives back exactly what stood on the wire.
func FuzzFrameRead(f *testing.F) {
	f.Add([]byte{})
	f.Add(frame(FrameStdout, "hello"))
	f.Add(append(frame(FrameStdinClose, ""), frame(FrameExit, `{"code":1}`)...))
	f.Add([]byte{4, 0, 1, 0, 1, 0})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		frames := framesFrom(data)
		var again []byte
		for {
			got, err := frames.Read()
			if err != nil {
				if errors.Is(err, io.EOF) && len(again) != len(data) {
					t.Fatalf("EOF after %d of %d bytes", len(again), len(data))
				}
				break
			}
			if len(got.Payload) > MaxFramePayload {
				t.Fatalf("payload of %d bytes", len(got.Payload))
			}
			again = append(again, frame(got.Type, string(got.Payload))...)
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatal("frames are not what was on the wire")
		}
	})
}
