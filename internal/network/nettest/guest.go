package nettest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/plan"
)

// openTap opens a tap as a VMM does, blocking and without virtio-net headers.
func openTap(name string) (*os.File, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// enterVM runs in the network's namespaces: it opens the tap and starts playVM in a namespace of
// its own.
func enterVM() error {
	var v VM
	if err := json.Unmarshal([]byte(os.Getenv(homeVariable)), &v); err != nil {
		return err
	}
	tap, err := openTap(v.Tap.Name)
	if err != nil {
		return err
	}
	inner := self("vm")
	inner.Stdin, inner.Stdout, inner.ExtraFiles = os.Stdin, os.Stdout, []*os.File{tap}
	inner.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	return inner.Run()
}

// frames are what the guest has received, for «seen».
type frames struct {
	mu    sync.Mutex
	all   [][]byte
	added chan struct{}
}

func (f *frames) add(frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, bytes.Clone(frame))
	close(f.added)
	f.added = make(chan struct{})
}

// seen waits for a frame that holds part.
func (f *frames) seen(part []byte, wait time.Duration) bool {
	deadline := time.After(wait)
	for {
		f.mu.Lock()
		for _, frame := range f.all {
			if bytes.Contains(frame, part) {
				f.mu.Unlock()
				return true
			}
		}
		added := f.added
		f.mu.Unlock()
		select {
		case <-added:
		case <-deadline:
			return false
		}
	}
}

func playVM() error {
	var v VM
	if err := json.Unmarshal([]byte(os.Getenv(homeVariable)), &v); err != nil {
		return err
	}
	outer := os.NewFile(3, "tap")
	eth0, err := openTap("eth0")
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	mac, _ := net.ParseMAC(v.Endpoint.MAC)
	if err := errors.Join(netlink.LinkSetHardwareAddr(link, mac), netlink.LinkSetMTU(link, v.Tap.MTU),
		netlink.LinkSetTxQLen(link, 2*plan.MaxConns), // so that «connect» loses nothing on the way to the bridge
		raise("lo"), AddAddress("eth0", v.Endpoint.Address.String()+"/16"),
		netlink.RouteAdd(&netlink.Route{Gw: v.Gateway.AsSlice()})); err != nil {
		return err
	}
	if v.Tap.Address6.IsValid() {
		if err := AddAddress("eth0", v.Tap.Address6.String()); err != nil {
			return err
		}
	}
	if v.Tap.Gateway6.IsValid() {
		if err := netlink.RouteAdd(&netlink.Route{Gw: v.Tap.Gateway6.AsSlice()}); err != nil {
			return err
		}
	}
	got := &frames{added: make(chan struct{})}
	go pump(eth0, outer, nil)
	go pump(outer, eth0, got)
	listener, err := net.Listen("tcp", ":7")
	if err != nil {
		return err
	}
	go greet(listener)
	g := &guest{tap: outer, got: got}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r request
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return err
		}
		fmt.Println(g.perform(r))
	}
	return nil
}

func pump(from, to *os.File, record *frames) {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		if record != nil {
			record.add(frame[:n])
		}
		to.Write(frame[:n])
	}
}

// guest is what playVM acts on.
type guest struct {
	tap  *os.File
	got  *frames
	kept net.Conn
}

func (g *guest) perform(r request) string {
	actions := map[string]func(request) (string, error){
		"ready":   func(request) (string, error) { return "ready", nil },
		"tcp":     g.dial,
		"keep":    g.dial, // and keeps the connection
		"again":   g.again,
		"ping":    func(r request) (string, error) { return "pong", ping(r.To, r.Wait) },
		"dns":     func(r request) (string, error) { return resolve(r.To) },
		"ask":     func(r request) (string, error) { return "answered", ask(r.To, r.Wait) },
		"echo":    func(r request) (string, error) { return "echoed", echo(r.To, r.Wait) },
		"open":    func(r request) (string, error) { return "sent", openMany(r.To) },
		"connect": func(r request) (string, error) { return "sent", connect(r.To) },
		"flood":   func(r request) (string, error) { return "sent", flood(r.To) },
		"same":    func(r request) (string, error) { return "twice", samePort(r.To, r.Wait) },
		"frame":   g.frame,
		"seen":    func(r request) (string, error) { return g.seen(r.Data, r.Wait) },
		"have":    func(r request) (string, error) { return g.seen(r.Data, 0) }, // without waiting
	}
	action := actions[r.Do]
	if action == nil {
		return "error: unknown"
	}
	answer, err := action(r)
	if err != nil {
		return "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
	}
	return answer
}

// dial returns the first line that a server says.
func (g *guest) dial(r request) (string, error) {
	conn, err := net.DialTimeout("tcp", r.To, r.Wait)
	if err != nil {
		return "", err
	}
	conn.SetDeadline(time.Now().Add(r.Wait))
	io.WriteString(conn, r.Data)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || r.Do != "keep" {
		conn.Close()
	} else {
		g.kept = conn
	}
	return strings.TrimSpace(line), err
}

// again uses the connection that was kept.
func (g *guest) again(r request) (string, error) {
	g.kept.SetDeadline(time.Now().Add(r.Wait))
	if _, err := fmt.Fprintln(g.kept, "again"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(g.kept).ReadString('\n')
	return strings.TrimSpace(line), err
}

func (g *guest) frame(r request) (string, error) {
	frame, err := hex.DecodeString(r.Data)
	if err == nil {
		_, err = g.tap.Write(frame)
	}
	return "sent", err
}

func (g *guest) seen(data string, wait time.Duration) (string, error) {
	part, err := hex.DecodeString(data)
	return fmt.Sprint(g.got.seen(part, wait)), err
}

// ask asks a name server by UDP.
func ask(to string, wait time.Duration) error {
	client := dns.Client{Net: "udp", Timeout: wait}
	_, _, err := client.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeA), to)
	return err
}

// flood sends queries, half of them broken, as fast as it can.
func flood(to string) error {
	conn, err := net.Dial("udp4", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	query, err := new(dns.Msg).SetQuestion("flood.example.", dns.TypeA).Pack()
	for i := range 20000 {
		if i%2 == 0 {
			conn.Write(query)
		} else {
			conn.Write(query[:i%len(query)])
		}
	}
	return err
}

// echo sends megabytes to a server that returns them, says that it has said all, and reads to the
// end.
func echo(to string, wait time.Duration) error {
	conn, err := net.DialTimeout("tcp", to, wait)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(wait))
	in := bufio.NewReader(conn)
	if _, err := in.ReadString('\n'); err != nil { // its greeting
		return err
	}
	sent := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(in)
	if err := errors.Join(err, <-wrote); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("%d bytes came back of %d, or others", len(got), len(sent))
	}
	return nil
}

// samePort connects twice from one port, which it may when the server closes first.
func samePort(to string, wait time.Duration) error {
	dialer := net.Dialer{
		LocalAddr: &net.TCPAddr{Port: 4000},
		Timeout:   wait,
		Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		},
	}
	deadline := time.Now().Add(wait)
	for range 2 {
		conn, err := dialer.Dial("tcp", to)
		for errors.Is(err, unix.EADDRNOTAVAIL) && time.Now().Before(deadline) { // its end is on its way
			conn, err = dialer.Dial("tcp", to)
		}
		if err != nil {
			return err
		}
		conn.SetDeadline(time.Now().Add(wait))
		_, err = io.ReadAll(conn)
		if err := errors.Join(err, conn.Close()); err != nil {
			return err
		}
	}
	return nil
}

// openMany sends the first packet of a connection from each port, and no more.
func openMany(to string) error {
	conn, err := net.DialIP("ip4:tcp", nil, &net.IPAddr{IP: net.ParseIP(to)})
	if err != nil {
		return err
	}
	defer conn.Close()
	for port := 1024; port < 30000; port++ {
		segment := make([]byte, 20)
		binary.BigEndian.PutUint16(segment, uint16(port))
		segment[3], segment[12], segment[13] = 7, 5<<4, 2 // to port 7, five words, SYN; the sum is not checked
		if _, err := conn.Write(segment); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
	}
	return nil
}

// connect begins as many connections as a VM may have, each with a packet to another port.
func connect(to string) error {
	conn, err := net.ListenPacket("udp", ":0")
	if err != nil {
		return err
	}
	defer conn.Close()
	for port := range plan.MaxConns {
		if _, err := conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(to), Port: 1000 + port}); err != nil {
			return err
		}
	}
	return nil
}

func ping(to string, wait time.Duration) error {
	target := netip.MustParseAddr(to)
	network, any, protocol := "ip4:icmp", "0.0.0.0", 1
	var request, answer icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if target.Is6() {
		network, any, protocol = "ip6:ipv6-icmp", "::", 58
		request, answer = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := icmp.ListenPacket(network, any)
	if err != nil {
		return err
	}
	defer conn.Close()
	message, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: 7, Seq: 1, Data: []byte("banger")}}).Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: target.AsSlice()}); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(wait))
	for {
		buffer := make([]byte, 1500)
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		reply, err := icmp.ParseMessage(protocol, buffer[:n])
		if err == nil && reply.Type == answer && from.String() == to {
			return nil
		}
	}
}

// resolve asks the gateway: "name A", answered with the rcode and the first record's data.
func resolve(question string) (string, error) {
	name, kind, _ := strings.Cut(question, " ")
	kind, transport, _ := strings.Cut(kind, "/")
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[kind])
	client := dns.Client{Net: transport, Timeout: 5 * time.Second}
	reply, _, err := client.Exchange(q, network.Gateway(network.DefaultSubnet).String()+":53")
	if err != nil {
		return "", err
	}
	words := []string{dns.RcodeToString[reply.Rcode]}
	for _, rr := range reply.Answer {
		words = append(words, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(words, " "), nil
}
