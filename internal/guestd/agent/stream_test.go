package agent

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "banger/proto/agent/v1"
)

// carryOne serves one connection of the host, and gives the host's end of it.
func carryOne(t *testing.T) net.Conn {
	t.Helper()
	s := newStreams()
	host, guest := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.carry(guest)
	}()
	t.Cleanup(func() {
		host.Close()
		s.close()
		<-done
	})
	return host
}

// A connection that does not say which socket it means is told so and ended.
func TestCarryRefuses(t *testing.T) {
	closed, err := net.Listen("tcp4", "127.0.0.1:0") // a port that was somebody's is nobody's afterwards
	if err != nil {
		t.Fatal(err)
	}
	port := closed.Addr().(*net.TCPAddr).Port
	closed.Close()
	tests := []struct{ name, line, want string }{
		{"NoSocket", "unix /run/x\n", `no socket "unix /run/x"`},
		{"NoPort", "tcp 0\n", `no port "0"`},
		{"NoAddress", "tcp 80 somewhere\n", `no address "somewhere"`},
		{"ManyWords", "tcp 80 127.0.0.1 x\n", "no socket"},
		{"NoLine", strings.Repeat("x", 300), "no line within 256 bytes"},
		{"Refused", "tcp " + strconv.Itoa(port) + " 127.0.0.1\n", "connection refused"},
		{"RefusedAnywhere", "tcp " + strconv.Itoa(port) + "\n", "connection refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			host := carryOne(t)
			go io.WriteString(host, tt.line)
			r := bufio.NewReader(host)
			var refused *agentv1.StreamRefusedError
			if err := agentv1.ReadStreamAnswer(r); !errors.As(err, &refused) || !strings.Contains(strings.ReplaceAll(refused.Reason, `\"`, `"`), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("afterwards: %v, want the end", err)
			}
		})
	}
}

// A host that says nothing does not hold a place for ever.
func TestCarrySilentHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := carryOne(t)
		began := time.Now()
		if err := agentv1.ReadStreamAnswer(bufio.NewReader(host)); err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != openTimeout {
			t.Errorf("it ended after %v, want %v", waited, openTimeout)
		}
	})
}

// frame is what a host sends: data, or with nil the end of its direction.
func frame(data []byte) []byte {
	if data == nil {
		return []byte{0xff, 0xff, 0xff, 0xff}
	}
	return append([]byte{0, 0, byte(len(data) >> 8), byte(len(data))}, data...)
}

// What the host sends along with its line reaches the socket, whose answer and end come back; then
// both sides are done.
func TestCarry(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		said, err := io.ReadAll(conn)
		_, err2 := io.WriteString(conn, "you said "+string(said))
		served <- errors.Join(err, err2)
	}()
	host := carryOne(t)
	target := agentv1.StreamTarget{Network: "tcp", Port: uint16(l.Addr().(*net.TCPAddr).Port)}
	go host.Write([]byte(target.Line() + string(frame([]byte("hello "))) + string(frame([]byte("you"))) +
		string(frame(nil))))
	r := bufio.NewReader(host)
	if err := agentv1.ReadStreamAnswer(r); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if want := string(frame([]byte("you said hello you"))) + string(frame(nil)); string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A frame that is longer than may be, or cut short, resets the socket: its peer must not take what
// came for all.
func TestCarryBrokenHost(t *testing.T) {
	for name, sent := range map[string][]byte{
		"TooLong": {0, 0xff, 0, 0, 'x'}, "CutShort": {0, 0, 0, 9, 'x'}, "NoEnd": frame([]byte("x")),
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ended := make(chan error, 1)
			go func() {
				conn, err := l.Accept()
				if err == nil {
					_, err = io.ReadAll(conn)
					conn.Close()
				}
				ended <- err
			}()
			host := carryOne(t)
			at := netip.MustParseAddrPort(l.Addr().String())
			go func() {
				io.WriteString(host, agentv1.StreamTarget{Network: "tcp", Port: at.Port(), Address: at.Addr()}.Line())
				host.Write(sent)
				if name != "TooLong" {
					host.Close()
				}
			}()
			io.Copy(io.Discard, host)
			if err := <-ended; err == nil {
				t.Error("the peer saw a good end")
			}
		})
	}
}

// Ways to end are not errors, and others are.
func TestStreamsClose(t *testing.T) {
	s := newStreams()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.serve(l) }()
	s.close()
	if err := <-ended; ignoreClosed(err) != nil {
		t.Errorf("closed: %v", err)
	}
	if err := newStreams().serve(&peers{}); !errors.Is(err, io.EOF) || ignoreClosed(err) == nil {
		t.Errorf("a listener that fails: %v", err)
	}
}
