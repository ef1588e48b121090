package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

// Services of the guest, in what every Debian has. The first answers when its client has sent all,
// the second each datagram.
const (
	tcpService = `setsid -f perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(Listen=>64,LocalAddr=>"127.0.0.1",LocalPort=>7000,ReuseAddr=>1) or die; $SIG{CHLD}="IGNORE"; while($c=$s->accept){if(fork){close $c; next} $n=0; $n+=length while <$c>; print $c "got $n bytes"; exit}' </dev/null >/dev/null 2>&1`
	udpService = `setsid -f perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(LocalPort=>7001,Proto=>"udp") or die; while(defined($f=$s->recv($d,65536))){$s->send("you said $d",0,$f)}' </dev/null >/dev/null 2>&1`
)

// asks sends a message through a forward, ends its own direction and returns what comes back.
func asks(f api.Forward, message string) (string, error) {
	conn, err := net.DialTimeout(string(f.Protocol), f.Listen(), 10*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // a failure shows in what follows
	if _, err := fmt.Fprint(conn, message); err != nil {
		return "", err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		answer := make([]byte, 1<<16)
		n, err := conn.Read(answer)
		return string(answer[:n]), err
	}
	if err := tcp.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func (h *home) wantAnswer(f api.Forward, message, want string) {
	h.t.Helper()
	if got, err := asks(f, message); got != want || err != nil {
		h.t.Errorf("%s: got %q, %v; want %q", f, got, err, want)
	}
}

func TestForward(t *testing.T) {
	h := newHome(t)
	h.banger("run", "-d", "--name", "web", "--net", "none", "-p", "0:7000", "--publish", "127.0.0.1:0:7001/udp")
	serve := func() {
		t.Helper()
		h.banger("exec", "web", "--", "sh", "-c", tcpService+"; "+udpService)
		eventually(t, "both services listen", func() bool {
			ports := h.banger("ports", "web")
			return strings.Contains(ports, "7000/tcp") && strings.Contains(ports, "7001/udp")
		})
	}
	serve()
	forwards := h.vm("web").Forwards
	if len(forwards) != 2 || forwards[0].HostPort == 0 || forwards[1].HostPort == 0 {
		t.Fatalf("forwards are %v", forwards)
	}
	tcp, udp := forwards[0], forwards[1]
	if tcp.Protocol != api.TCP {
		tcp, udp = udp, tcp
	}
	works := func(t *testing.T) {
		t.Helper()
		h := h.in(t)
		h.wantAnswer(tcp, "hello", "got 5 bytes")
		h.wantAnswer(tcp, strings.Repeat("x", 1<<20), "got 1048576 bytes")
		h.wantAnswer(udp, "hello", "you said hello")
	}
	t.Run("Run", works)
	t.Run("Commands", func(t *testing.T) { testForwardCommands(t, h.in(t), tcp) })
	t.Run("GuestEndDies", func(t *testing.T) {
		conn := h.in(t).connect(tcp)
		h.in(t).banger("exec", "web", "--", "sh", "-c", "pkill -9 perl; true")
		ends(t, conn)
		if got, err := asks(tcp, "x"); err == nil {
			t.Errorf("a port without a listener answered %q", got)
		}
		h.in(t).banger("exec", "web", "--", "sh", "-c", tcpService+"; "+udpService)
		eventually(t, "the service is back", func() bool { _, err := asks(tcp, "x"); return err == nil })
	})
	t.Run("Adopted", func(t *testing.T) {
		if err := syscall.Kill(h.in(t).daemon().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.in(t).banger("ls")
		works(t)
	})
	t.Run("Stopped", func(t *testing.T) {
		conn := h.in(t).connect(tcp)
		h.in(t).banger("kill", "web")
		ends(t, conn)
		if _, err := asks(tcp, "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the port of a stopped machine: %v", err)
		}
		if out := h.in(t).banger("forward", "ls", "web"); !strings.Contains(out, "closed: the machine is stopped") {
			t.Errorf("forward ls:\n%s", out)
		}
		h.in(t).banger("start", "web")
		serve()
		works(t)
	})
	h.banger("forward", "rm", "web", fmt.Sprint(tcp.HostPort), fmt.Sprintf("%d/udp", udp.HostPort))
	if _, err := asks(tcp, "x"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port of a removed forward: %v", err)
	}
}

// testForwardCommands looks at what the commands print and refuse.
func testForwardCommands(t *testing.T, h *home, tcp api.Forward) {
	if out := h.banger("ports", "web"); !strings.Contains(out, "perl") || !strings.Contains(out, tcp.Listen()) {
		t.Errorf("ports:\n%s", out)
	}
	if out := h.banger("forward", "ls"); strings.Count(out, "open") != 2 {
		t.Errorf("forward ls:\n%s", out)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	inUse := fmt.Sprintf("%d:80", taken.Addr().(*net.TCPAddr).Port)
	h.fails(1, "in use", "forward", "web", inUse)
	h.fails(1, "in use", "run", "--rm", "--name", "late", "--net", "none", "-p", inUse, "--", "true")
	h.fails(1, "to machine web", "create", "--name", "late", "-p", fmt.Sprintf("%d:80", tcp.HostPort))
	h.fails(1, "no forward", "forward", "rm", "web", "1")
	h.fails(2, "[ADDR:]HOST:GUEST", "forward", "web", "80:http")
	h.fails(2, "[ADDR:]HOST:GUEST", "run", "-p", "80:", "--", "true")
	if out := h.banger("ls"); strings.Contains(out, "late") {
		t.Errorf("a machine whose port was taken is there:\n%s", out)
	}
	added := strings.TrimSpace(h.banger("forward", "web", "0:7000"))
	from, _, _ := strings.Cut(added, "/")
	f, err := api.ParseForward(from + ":7000")
	if err != nil {
		t.Fatalf("forward said %q: %v", added, err)
	}
	h.wantAnswer(f, "again", "got 5 bytes")
	h.banger("forward", "rm", "web", f.String())
}

// connect opens a connection through a forward that the guest has accepted.
func (h *home) connect(f api.Forward) net.Conn {
	h.t.Helper()
	conn, err := net.Dial(string(f.Protocol), f.Listen())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	eventually(h.t, "the guest has the connection", func() bool {
		_, ok := h.guest("web", "ss -Htn state established '( sport = :7000 )' | grep -q .")
		return ok
	})
	return conn
}

// ends fails the test unless the connection is ended by its other side.
func ends(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // a failure shows in the read
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, syscall.ETIMEDOUT) || (err != nil && !errors.Is(err, syscall.ECONNRESET)) {
		t.Errorf("the connection did not end: %v", err)
	}
}
