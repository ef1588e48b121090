package network

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
)

// The tests run in a host of their own: a network namespace (in a user namespace, so root and ordinary users have the same)
// whose only neighbour is "the internet", another namespace. This binary plays all the parts, chosen by roleVariable.
const (
	roleVariable = "BANGER_NETWORK_ROLE"
	homeVariable = "BANGER_NETWORK_HOME"

	hostAddress     = "198.51.100.2"
	otherAddress    = "192.0.2.7" // the host's too, on another link
	internetAddress = "198.51.100.1"

	hostAddress6     = "2001:db8:1::2"
	otherAddress6    = "2001:db8:2::7"
	internetAddress6 = "2001:db8:1::1"
)

func TestMain(m *testing.M) {
	run := map[string]func() error{"keeper": playKeeper, "holder": playHolder, "internet": playInternet, "enter-vm": enterVM, "vm": playVM}[os.Getenv(roleVariable)]
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

// inHost reports whether this is the fake host; if not it runs the test there.
func inHost(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleVariable) == "host" {
		return true
	}
	command := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	// A process built with -race sleeps a second at its end, and a test has up to ten.
	command.Env = append(os.Environ(), roleVariable+"=host", "GORACE=atexit_sleep_ms=0")
	command.SysProcAttr = namespaces(true)
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL
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
	root string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "bn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	check(t, raise("lo"))
	internet := self("internet")
	internet.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	in, _ := internet.StdinPipe()
	out, _ := internet.StdoutPipe()
	check(t, internet.Start())
	t.Cleanup(func() { in.Close(); internet.Wait() })
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wan0", MTU: 1400}, PeerName: "wan0", PeerNamespace: netlink.NsPid(internet.Process.Pid)}
	check(t, netlink.LinkAdd(pair))
	check(t, addAddress("wan0", hostAddress+"/24"))
	check(t, addAddress("wan0", hostAddress6+"/64"))
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other0"}}
	check(t, netlink.LinkAdd(other))
	t.Cleanup(func() { netlink.LinkDel(pair); netlink.LinkDel(other) })
	check(t, addAddress("other0", otherAddress+"/24"))
	check(t, addAddress("other0", otherAddress6+"/64"))
	check(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(internetAddress)}))
	check(t, netlink.RouteAdd(defaultRoute6()))
	fmt.Fprintln(in, "go")
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("internet: %q, %v", line, err)
	}
	check(t, os.WriteFile(filepath.Join(root, "resolv.conf"), []byte("nameserver "+internetAddress+"\n"), 0o600))
	// A service on the host, which no VM may reach.
	listener, err := net.Listen("tcp", ":7")
	check(t, err)
	t.Cleanup(func() { listener.Close() })
	go greet(listener)
	return &world{t, root}
}

// defaultRoute6 is the host's way out for IPv6.
func defaultRoute6() *netlink.Route { return &netlink.Route{Gw: net.ParseIP(internetAddress6)} }

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

func check(t *testing.T, err error) {
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

func addAddress(name, prefix string) error {
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
		reset(conn.(*net.TCPConn))
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
	if err := errors.Join(raise("lo"), addAddress("wan0", internetAddress+"/24"), addAddress("wan0", internetAddress6+"/64")); err != nil {
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

type home struct {
	*Client
	world *world
	path  string
}

// keeperConfig travels to playKeeper in the environment.
type keeperConfig struct {
	Home, ResolvConf string
	Subnet           netip.Prefix
	Rootless         bool
}

// home returns a running network.
func (w *world) home(name string, subnet netip.Prefix, rootless bool) *home {
	w.t.Helper()
	path := filepath.Join(w.root, name)
	config, err := json.Marshal(keeperConfig{path, filepath.Join(w.root, "resolv.conf"), subnet, rootless})
	check(w.t, err)
	command := []string{"/usr/bin/env", roleVariable + "=keeper", homeVariable + "=" + string(config), "/proc/self/exe"}
	executable, err := os.Executable()
	check(w.t, err)
	command[3] = executable
	h := &home{NewClient(path, rootless, command), w, path}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			log, _ := os.ReadFile(h.d.log())
			w.t.Logf("log of %s:\n%s", name, log)
		}
		if err := h.Stop(context.Background()); err != nil {
			w.t.Error(err)
		}
	})
	return h
}

func playKeeper() error {
	var c keeperConfig
	if err := json.Unmarshal([]byte(os.Getenv(homeVariable)), &c); err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return Serve(context.Background(), ServeConfig{
		Home: c.Home, Subnet: c.Subnet, Rootless: c.Rootless, ResolvConf: c.ResolvConf,
		Holder: []string{"/usr/bin/env", roleVariable + "=holder", executable}, Ready: os.NewFile(ReadyFD, "ready"),
	}, log)
}

func playHolder() error {
	return Hold(context.Background(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

// request is what a VM's part does; the answer is a line, or an error's text behind "error: ".
type request struct {
	Do, To, Data string
	Wait         time.Duration // for what may not come
}

// vm is a guest: a process with a network namespace of its own, whose interface is the other end of the tap.
type vm struct {
	t    *testing.T
	Port Port
	Tap  Tap
	in   io.Writer
	out  *bufio.Reader
	end  func()
}

func (h *home) port(name string, n byte, policy Policy) Port {
	a := Gateway(DefaultSubnet).As4()
	a[3] = n
	address := netip.AddrFrom4(a)
	return Port{ID: "id-" + name, Name: name, Address: address, MAC: MAC(address), Policy: policy}
}

func (h *home) boot(p Port) *vm {
	t := h.world.t
	t.Helper()
	tap, err := h.Attach(t.Context(), p)
	check(t, err)
	status, err := h.Status(t.Context())
	check(t, err)
	config, _ := json.Marshal(vm{Port: p, Tap: tap})
	executable, _ := os.Executable()
	argv := h.Enter(status.HolderPID, []string{executable, filepath.Join(h.path, "vms", p.ID)}) // as a VMM has its VM's folder
	command := exec.Command(argv[0], argv[1:]...)
	command.Env = append(os.Environ(), roleVariable+"=enter-vm", homeVariable+"="+string(config))
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, _ := command.StdinPipe()
	out, _ := command.StdoutPipe()
	check(t, command.Start())
	v := &vm{t: t, Port: p, Tap: tap, in: in, out: bufio.NewReader(out)}
	v.end = func() { in.Close(); command.Wait() }
	t.Cleanup(v.end)
	if got := v.do("ready", "", ""); got != "ready" {
		t.Fatalf("boot %s: %s", p.Name, got)
	}
	return v
}

func (v *vm) do(what, to, data string) string {
	v.t.Helper()
	return v.doWithin(longWait, what, to, data)
}

func (v *vm) doWithin(wait time.Duration, what, to, data string) string {
	v.t.Helper()
	v.begin(wait, what, to, data)
	return v.answer()
}

// begin has the guest do something, whose answer is taken later.
func (v *vm) begin(wait time.Duration, what, to, data string) {
	v.t.Helper()
	check(v.t, json.NewEncoder(v.in).Encode(request{what, to, data, wait}))
}

func (v *vm) answer() string {
	v.t.Helper()
	line, err := v.out.ReadString('\n')
	check(v.t, err)
	return strings.TrimSpace(line)
}

// want fails the test unless the answer begins so.
func (v *vm) want(prefix, what, to string) {
	v.t.Helper()
	wait := longWait
	if prefix == "error" {
		wait = shortWait
	}
	if got := v.doWithin(wait, what, to, ""); !strings.HasPrefix(got, prefix) {
		v.t.Errorf("%s: %s %s: got %q, want %q", v.Port.Name, what, to, got, prefix)
	}
}

const (
	shortWait = 700 * time.Millisecond // for an answer that should not come; were it late, the test would miss that it does
	longWait  = 10 * time.Second       // for one that should, on a busy machine too
)
