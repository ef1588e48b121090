package fcqemu

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// One VM shows all of the vsock's unix sockets.
func TestVsock(t *testing.T) {
	p := serve(t, nil)
	p.guestConfig(t)
	if _, _, err := p.connect(t, "CONNECT 52\n"); !errors.Is(err, errRefused) {
		t.Errorf("before the start: got %v, want refused", err)
	}
	p.start(t)
	p.ask(t, "exec")

	t.Run("refused", p.testRefused)
	t.Run("says nothing", p.testSaysNothing)
	t.Run("host ports", p.testHostPorts)
	t.Run("data behind the request", p.testDataBehindTheRequest)
	t.Run("half close", p.testHalfClose)
	t.Run("host goes away", p.testHostGoesAway)
	t.Run("fifty at once", p.testFiftyAtOnce)
	t.Run("guest dials", p.testGuestDials)
	t.Run("nobody listens", p.testNobodyListens)
	t.Run("agent comes again", p.testAgentComesAgain)
	p.command(t, "poweroff")
	p.exitsCleanly(t, "")
	if _, err := os.Stat(p.path("v")); err != nil {
		t.Errorf("the socket after the end: %v", err)
	}
}

func (p *program) testRefused(t *testing.T) {
	for _, request := range []string{
		"CONNECT 53\n", "CONNECT 4294967295\n", "CONNECT\n", "CONNECT -1\n", "CONNECT 4294967296\n", "HELLO 52\n", "\n",
		"CONNECT " + strings.Repeat("0", 64) + "52\n", strings.Repeat("x", 4096),
	} {
		if _, said, err := p.connect(t, request); !errors.Is(err, errRefused) || said != "" {
			t.Errorf("%.20q: got %q, %v, want the connection closed without a word", request, said, err)
		}
	}
}

func (p *program) testSaysNothing(t *testing.T) {
	conn, err := net.Dial("unix", p.path("v"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("got %d bytes, %v, want EOF after %v", n, err, vsockRequestTimeout)
	}
}

func (p *program) testHostPorts(t *testing.T) {
	var ports []uint32
	for _, request := range []string{"CONNECT 52\n", "connect 52\n"} {
		_, line, err := p.connect(t, request)
		var port uint32
		if _, scanErr := fmt.Sscanf(line, "OK %d\n", &port); err != nil || scanErr != nil || port < firstHostPort {
			t.Fatalf("%q: got %q, %v", request, line, err)
		}
		ports = append(ports, port)
	}
	if ports[1] != ports[0]+1 {
		t.Errorf("the host's ports are %v, want consecutive ones", ports)
	}
}

func (p *program) testDataBehindTheRequest(t *testing.T) {
	conn, _, err := p.connect(t, "CONNECT 52\nsource 10\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) != 10 || err != nil {
		t.Errorf("got %d bytes, %v, want 10", len(got), err)
	}
}

func (p *program) testHalfClose(t *testing.T) {
	conn := p.command(t, "sink")
	data := make([]byte, 300<<10)
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != fmt.Sprint(len(data)) || err != nil {
		t.Errorf("the guest counted %q bytes, %v, want %d", got, err, len(data))
	}
}

func (p *program) testHostGoesAway(t *testing.T) {
	conn := p.command(t, "source 1073741824")
	if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if got := p.ask(t, "exec"); got != "done" {
		t.Error(got)
	}
}

func (p *program) testFiftyAtOnce(t *testing.T) {
	var all sync.WaitGroup
	conns := make([]*net.UnixConn, 50)
	for i := range conns {
		conns[i] = p.command(t, "echo")
	}
	for i, conn := range conns {
		all.Go(func() {
			want := strings.Repeat(fmt.Sprintf("%04d", i), 4096)
			if _, err := io.WriteString(conn, want); err != nil {
				t.Error(err)
			}
			conn.CloseWrite()
			if got, err := io.ReadAll(conn); string(got) != want || err != nil {
				t.Errorf("connection %d: %d bytes came back of %d, %v", i, len(got), len(want), err)
			}
		})
	}
	all.Wait()
}

func (p *program) testGuestDials(t *testing.T) {
	l, err := net.Listen("unix", p.path("v_1234"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn := p.command(t, "dial 1234")
	l.(*net.UnixListener).SetDeadline(time.Now().Add(time.Minute))
	guest, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	guest.SetDeadline(time.Now().Add(time.Minute))
	if got, err := io.ReadAll(guest); string(got) != "hello" || err != nil {
		t.Errorf("the guest said %q, %v", got, err)
	}
	fmt.Fprint(guest, "world")
	guest.Close()
	if got, err := io.ReadAll(conn); string(got) != "world" || err != nil {
		t.Errorf("the guest heard %q, %v", got, err)
	}
}

func (p *program) testNobodyListens(t *testing.T) {
	if got := p.ask(t, "dial 1235"); !strings.Contains(got, "refused") {
		t.Errorf("the guest heard %q, want refused", got)
	}
	// The file of a listener that has gone.
	l, err := net.Listen("unix", p.path("v_1236"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if got := p.ask(t, "dial 1236"); !strings.Contains(got, "refused") {
		t.Errorf("the guest heard %q, want refused", got)
	}
}

func (p *program) testAgentComesAgain(t *testing.T) {
	for range 3 {
		open := p.command(t, "echo")
		p.command(t, "hangup")
		open.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadAll(open); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection of the agent that died: %v", err)
		}
		if got := p.ask(t, "exec"); got != "done" {
			t.Error(got)
		}
	}
}

// The socket is bound when it is PUT. A file that is there already is an error, except that of the
// PUT before.
func TestVsockFile(t *testing.T) {
	p := serve(t, nil)
	if err := os.WriteFile(p.path("taken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := "Error binding to the host-side Unix socket: Address already in use (os error 98)"
	if got := p.refused(t, "PUT", "/vsock", `{"guest_cid":3,"uds_path":"taken"}`); !strings.Contains(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := p.refused(t, "PUT", "/vsock", fmt.Sprintf(`{"guest_cid":3,"uds_path":"/%s"}`, strings.Repeat("x", 108))); !strings.Contains(got, "Vsock config error") {
		t.Error(got)
	}
	for range 2 {
		p.must(t, "PUT", "/vsock", `{"guest_cid":3,"uds_path":"v"}`)
	}
	p.must(t, "PUT", "/vsock", `{"guest_cid":4,"uds_path":"w"}`)
	if _, err := os.Stat(p.path("v")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket that was replaced: %v, want it gone", err)
	}
	if got := p.config(t).Vsock; got.UDSPath != "w" || got.GuestCID != 4 {
		t.Errorf("shown as %+v", got)
	}
}
