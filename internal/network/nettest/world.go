// Package nettest is a host with an internet, made of network namespaces, in which tests run the
// network as it is: with its keeper, its holder, and processes that play VMs. Tests of the packages
// below internal/network share it.
package nettest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger/internal/network"
)

// Modes are the two uplinks; everything a VM sees is the same.
var Modes = map[string]bool{"pasta": true, "veth": false}

// The tests run in a host of their own: a network namespace (in a user namespace, so root and
// ordinary users have the same) whose only neighbour is "the internet", another namespace. This
// binary plays all the parts, chosen by roleVariable.
const (
	roleVariable = "BANGER_NETWORK_ROLE"
	homeVariable = "BANGER_NETWORK_HOME"

	HostAddress     = "198.51.100.2"
	OtherAddress    = "192.0.2.7" // the host's too, on another link
	InternetAddress = "198.51.100.1"

	HostAddress6     = "2001:db8:1::2"
	OtherAddress6    = "2001:db8:2::7"
	InternetAddress6 = "2001:db8:1::1"
)

// Main runs a package's tests, or plays the part that this process was started for.
func Main(m *testing.M) {
	run := map[string]func() error{
		"keeper": playKeeper, "holder": playHolder, "internet": playInternet, "enter-vm": enterVM, "vm": playVM,
	}[os.Getenv(roleVariable)]
	if run == nil {
		if os.Getenv(roleVariable) == "host" {
			goleak.VerifyTestMain(m)
			return
		}
		os.Exit(m.Run())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv(roleVariable)+":", err)
		os.Exit(1)
	}
}

// InHost reports whether this is the fake host; if not it runs the test there.
func InHost(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleVariable) == "host" {
		return true
	}
	command := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v",
		"-test.timeout=120s")
	// A process built with -race sleeps a second at its end, and a test has up to ten.
	command.Env = append(os.Environ(), roleVariable+"=host", "GORACE=atexit_sleep_ms=0")
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	t.Logf("%s", output)
	return false
}

// self returns a command that plays a role.
func self(role string) *exec.Cmd {
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), roleVariable+"="+role)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}

// world is the fake host with the internet.
type world struct {
	t    *testing.T
	Root string
}

func NewWorld(t *testing.T) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "bn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	Check(t, raise("lo"))
	internet := self("internet")
	internet.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	in, _ := internet.StdinPipe()
	out, _ := internet.StdoutPipe()
	Check(t, internet.Start())
	t.Cleanup(func() { in.Close(); internet.Wait() })
	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: "wan0", MTU: 1400},
		PeerName:      "wan0",
		PeerNamespace: netlink.NsPid(internet.Process.Pid),
	}
	Check(t, netlink.LinkAdd(pair))
	Check(t, AddAddress("wan0", HostAddress+"/24"))
	Check(t, AddAddress("wan0", HostAddress6+"/64"))
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other0"}}
	Check(t, netlink.LinkAdd(other))
	t.Cleanup(func() { netlink.LinkDel(pair); netlink.LinkDel(other) })
	Check(t, AddAddress("other0", OtherAddress+"/24"))
	Check(t, AddAddress("other0", OtherAddress6+"/64"))
	Check(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(InternetAddress)}))
	Check(t, netlink.RouteAdd(DefaultRoute6()))
	fmt.Fprintln(in, "go")
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("internet: %q, %v", line, err)
	}
	Check(t, os.WriteFile(filepath.Join(root, "resolv.conf"), []byte("nameserver "+InternetAddress+"\n"), 0o600))
	// A service on the host, which no VM may reach.
	listener, err := net.Listen("tcp", ":7")
	Check(t, err)
	t.Cleanup(func() { listener.Close() })
	go greet(listener)
	return &world{t, root}
}

// DefaultRoute6 is the host's way out for IPv6.
func DefaultRoute6() *netlink.Route { return &netlink.Route{Gw: net.ParseIP(InternetAddress6)} }

// greet tells each client who it is.
func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			fmt.Fprintln(conn, "hello", conn.RemoteAddr().(*net.TCPAddr).IP)
			io.Copy(conn, conn)
		}()
	}
}

func Check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func raise(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func AddAddress(name, prefix string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// abort resets each client that has said something.
func abort(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Read(make([]byte, 1))
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// dismiss says goodbye to each client and closes first.
func dismiss(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(conn, "bye")
		conn.Close()
	}
}

// playInternet serves TCP ports 7, 8 and 10, and DNS.
func playInternet() error {
	bufio.NewReader(os.Stdin).ReadString('\n')
	// Without ::1 Go's net takes the kernel for one without IPv6.
	err := errors.Join(raise("lo"),
		AddAddress("wan0", InternetAddress+"/24"), AddAddress("wan0", InternetAddress6+"/64"))
	if err != nil {
		return err
	}
	for port, serve := range map[string]func(net.Listener){":7": greet, ":8": abort, ":10": dismiss} {
		listener, err := net.Listen("tcp", port)
		if err != nil {
			return err
		}
		go serve(listener)
	}
	packets, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		reply := new(dns.Msg).SetReply(q)
		record, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 192.0.2.99")
		reply.Answer = []dns.RR{record}
		w.WriteMsg(reply)
	})
	go (&dns.Server{PacketConn: packets, Handler: answer}).ActivateAndServe()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// request is what a VM's part does; the answer is a line, or an error's text behind "error: ".
type request struct {
	Do, To, Data string
	Wait         time.Duration // for what may not come
}

// VM is a guest: a process with a network namespace of its own, whose interface is the other end of
// the tap.
type VM struct {
	t        *testing.T
	Endpoint network.Endpoint
	Tap      network.Tap

	Gateway netip.Addr

	in  io.Writer
	out *bufio.Reader
	end func()
}

func (v *VM) Do(what, to, data string) string {
	v.t.Helper()
	return v.DoWithin(LongWait, what, to, data)
}

func (v *VM) DoWithin(wait time.Duration, what, to, data string) string {
	v.t.Helper()
	v.Begin(wait, what, to, data)
	return v.Answer()
}

// Begin has the guest do something, whose answer is taken later.
func (v *VM) Begin(wait time.Duration, what, to, data string) {
	v.t.Helper()
	Check(v.t, json.NewEncoder(v.in).Encode(request{what, to, data, wait}))
}

func (v *VM) Answer() string {
	v.t.Helper()
	line, err := v.out.ReadString('\n')
	Check(v.t, err)
	return strings.TrimSpace(line)
}

// Want fails the test unless the answer begins so.
func (v *VM) Want(prefix, what, to string) {
	v.t.Helper()
	wait := LongWait
	if prefix == "error" {
		wait = ShortWait
	}
	if got := v.DoWithin(wait, what, to, ""); !strings.HasPrefix(got, prefix) {
		v.t.Errorf("%s: %s %s: got %q, want %q", v.Endpoint.Name, what, to, got, prefix)
	}
}

const (
	ShortWait = 700 * time.Millisecond // for an answer that should not come
	LongWait  = 10 * time.Second       // for one that should, on a busy machine too
)
