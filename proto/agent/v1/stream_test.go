package agentv1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestStreamTarget(t *testing.T) {
	for line, want := range map[string]StreamTarget{
		"tcp 80\n":               {Network: "tcp", Port: 80},
		"udp 53 127.0.0.1\n":     {Network: "udp", Port: 53, Address: netip.MustParseAddr("127.0.0.1")},
		"tcp 1 ::1\n":            {Network: "tcp", Port: 1, Address: netip.MustParseAddr("::1")},
		"tcp 0\n":                {},
		"tcp 65536\n":            {},
		"tcp\n":                  {},
		"unix 80\n":              {},
		"tcp 80 localhost\n":     {},
		"tcp 80 ::1 more\n":      {},
		"tcp 80":                 {},
		strings.Repeat("x", 999): {},
	} {
		got, err := ReadStreamTarget(bufio.NewReader(strings.NewReader(line)))
		if got != want || (err != nil) != (want == StreamTarget{}) {
			t.Errorf("%q: %+v, %v; want %+v", line, got, err, want)
		}
		if err == nil && got.Line() != line {
			t.Errorf("%q is written as %q", line, got.Line())
		}
	}
}

func TestStreamAnswer(t *testing.T) {
	read := func(line string) error { return ReadStreamAnswer(bufio.NewReader(strings.NewReader(line))) }
	if err := read(StreamAnswer(nil)); err != nil {
		t.Error(err)
	}
	long := errors.New(strings.Repeat("connection\nrefused ", 100))
	if e, ok := errors.AsType[*StreamRefusedError](read(StreamAnswer(long))); !ok || !strings.HasPrefix(e.Reason, `"connection refused`) {
		t.Errorf("the reason is %v", e)
	}
	if err := read("maybe\n"); err == nil {
		t.Error("an answer that is none is taken")
	}
}

func TestStreamFrames(t *testing.T) {
	var wire bytes.Buffer
	buf := make([]byte, StreamHeaderBytes+MaxChunkBytes)
	for _, n := range []int{1, 0, MaxChunkBytes} {
		if err := WriteStreamFrame(&wire, buf, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteStreamEnd(&wire); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0, MaxChunkBytes} {
		if n, err := NextStreamFrame(&wire); n != want || err != nil {
			t.Errorf("got %d, %v; want %d", n, err, want)
		}
		if err := ReadStreamData(&wire, buf[:want]); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []error{io.EOF, io.ErrUnexpectedEOF} {
		if _, err := NextStreamFrame(&wire); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// FuzzReadStream: whatever a guest sends is bounded.
func FuzzReadStream(f *testing.F) {
	f.Add([]byte("ok\n\x00\x00\x00\x01x\xff\xff\xff\xff"))
	f.Add([]byte("no way\n"))
	f.Add([]byte("ok\n\x7f\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		if err := ReadStreamAnswer(r); err != nil {
			return
		}
		buf := make([]byte, MaxChunkBytes)
		for {
			n, err := NextStreamFrame(r)
			if n > MaxChunkBytes {
				t.Fatalf("a frame of %d bytes", n)
			}
			if err != nil || ReadStreamData(r, buf[:n]) != nil {
				return
			}
		}
	})
}
