// Package relay carries connections of VMs with a socket at each end: inside the namespace, where
// they come from, and in the host's. Relay is for the world, Services for ports of the host's own
// loopback.
package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"banger/internal/accept"
	"banger/internal/network"
	"banger/internal/network/plan"
)

const (
	// relayAcceptTimeout is how long a guest may take to finish the handshake that it has begun.
	relayAcceptTimeout = 10 * time.Second
)

// Relay carries the TCP connections of VMs to the world, with a socket at each end, whatever the
// uplink is: so one policy holds for both, and what looks into connections has one place. pasta
// would translate TCP packet by packet, and lose or break fast uploads; root's veth would be
// faster, and a way of its own.
//
// A connection is let in only when the world has answered: its first packet comes to the tun device
// SYNName and is kept while the relay dials, in the host's namespace. Given back there, it opens
// the connection to the relay's listener, which has any address; given to ResetName it is refused.
// So a guest sees what it would see without a relay.
//
// The rules let through what a VM may have; the relay looks again, and closes connections of VMs
// that may no more.
type Relay struct {
	files        []*os.File
	syns, resets *os.File // the first two
	listeners    []net.Listener
	log          *slog.Logger
	running      sync.WaitGroup
	ctx          context.Context // ends with Close
	cancel       context.CancelFunc
	shortage     sync.Once // of descriptors or memory: logged once, for guests could fill a log

	mu      sync.Mutex          // guards what follows
	allowed map[netip.Addr]bool // VMs that reach the world, by each of their addresses
	conns   map[*conn]bool      // all of them
	latest  map[flow]*conn      // a VM may use a port again while what it has sent before is still on its way
	count   map[netip.Addr]int  // of connections, by VM
}

// conn is a connection of a VM to the world, from its first packet on.
type conn struct {
	flow
	cancel context.CancelFunc
	vmEnd  chan *net.TCPConn // gets the VM's end when that has finished its handshake

	// Guarded by the relay's mu:
	answered bool // by the world, so the first packet may come in
	accepted bool // the VM's end
}

// New makes a relay of the files that plan.Request.Relay gives, which it takes over.
func New(files []*os.File, log *slog.Logger) (_ *Relay, err error) {
	r := &Relay{log: log, conns: map[*conn]bool{}, latest: map[flow]*conn{}, count: map[netip.Addr]int{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			r.closeFiles()
		}
	}()
	r.files = files
	if len(files) < 3 {
		return nil, errors.New("the network is of an earlier build, which has no relay")
	}
	r.syns, r.resets = files[0], files[1]
	for _, file := range files[2:] {
		listener, err := net.FileListener(file)
		if err != nil {
			return nil, fmt.Errorf("take the relay's socket: %w", err)
		}
		r.listeners = append(r.listeners, listener)
	}
	return r, nil
}

// Start begins to take connections. First packets that came while there was no keeper wait for it,
// so the VMs that reach the world must have been told before, or theirs would be dropped.
func (r *Relay) Start() {
	r.running.Go(r.readSYNs)
	for _, listener := range r.listeners {
		r.running.Go(func() { r.accept(listener) })
	}
}

// Close ends all of it and waits for that.
func (r *Relay) Close() {
	r.cancel()
	r.closeFiles()
	r.running.Wait()
}

func (r *Relay) closeFiles() {
	for _, listener := range r.listeners {
		listener.Close()
	}
	for _, file := range r.files {
		file.Close()
	}
}

// Apply makes the VMs that reach the world those whose endpoints say so, and ends the connections
// of others.
func (r *Relay) Apply(endpoints []network.Endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed = map[netip.Addr]bool{}
	for _, e := range endpoints {
		if e.NAT {
			r.allowed[e.Address], r.allowed[network.Address6(e.Address)] = true, true
		}
	}
	for c := range r.conns {
		if !r.allowed[c.vm.Addr()] {
			c.cancel()
		}
	}
}

// readSYNs takes the first packets of connections.
func (r *Relay) readSYNs() {
	packet := make([]byte, 1<<16)
	for {
		n, err := r.syns.Read(packet)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				r.log.Error("machines can open no more connections", "err", err)
			}
			return
		}
		r.begin(packet[:n])
	}
}

// begin starts the connection of a first packet. One that is sent again waits like the first, or
// comes in: the other may be lost.
func (r *Relay) begin(packet []byte) {
	f, ok := parseSYN(packet)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	c, again := r.open(f, cancel)
	if again {
		_, _ = r.syns.Write(packet) // fails when the relay ends
	}
	if c == nil {
		cancel()
		return
	}
	first := bytes.Clone(packet)
	r.running.Go(func() {
		defer r.remove(c)
		r.carry(ctx, c, first)
	})
}

// open notes a new connection. There is none for a connection that is on its way already, which may
// have been let in, and for one that the VM may not have. A first packet behind a handshake that
// was finished is of a new connection.
func (r *Relay) open(f flow, cancel context.CancelFunc) (c *conn, answered bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.latest[f]; c != nil && !c.accepted {
		return nil, c.answered
	}
	if !r.allowed[f.vm.Addr()] || r.count[f.vm.Addr()] >= plan.MaxConns {
		return nil, false
	}
	c = &conn{flow: f, cancel: cancel, vmEnd: make(chan *net.TCPConn, 1)}
	r.conns[c], r.latest[f] = true, c
	r.count[f.vm.Addr()]++
	return c, false
}

// setAnswered notes that the world has answered.
func (r *Relay) setAnswered(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.answered = true
}

func (r *Relay) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.cancel()
	select {
	case vm := <-c.vmEnd: // came too late
		reset(vm)
	default:
	}
	delete(r.conns, c)
	if r.latest[c.flow] == c {
		delete(r.latest, c.flow)
	}
	vm := c.vm.Addr()
	if r.count[vm]--; r.count[vm] == 0 {
		delete(r.count, vm)
	}
}

// carry is the life of a connection.
func (r *Relay) carry(ctx context.Context, c *conn, first []byte) {
	world, err := dialWorld(ctx, c.remote)
	if err != nil {
		r.refuse(err, first)
		return
	}
	defer world.Close()
	r.setAnswered(c)
	if _, err := r.syns.Write(first); err != nil {
		return // the relay ends
	}
	late := time.NewTimer(relayAcceptTimeout)
	defer late.Stop()
	select {
	case vm := <-c.vmEnd:
		defer vm.Close()
		defer context.AfterFunc(ctx, func() { reset(world); reset(vm) })()
		join(world, vm)
	case <-late.C:
	case <-ctx.Done():
	}
}

// refuse tells the VM that its connection was refused, if it was: no answer is none for the VM too.
func (r *Relay) refuse(err error, first []byte) {
	for _, answer := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM,
	} {
		if errors.Is(err, answer) {
			_, _ = r.resets.Write(first) // fails when the relay ends
			return
		}
	}
	for _, lack := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL,
	} {
		if errors.Is(err, lack) {
			r.shortage.Do(func() { r.log.Error("machines have more connections than this host allows", "err", err) })
		}
	}
}

// accept takes the VMs' ends.
func (r *Relay) accept(listener net.Listener) {
	for {
		guest, err := accept.Next(r.ctx, listener, func(err error) {
			r.shortage.Do(func() { r.log.Error("take a machine's connection", "err", err) })
		})
		if err != nil {
			if r.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				r.log.Error("machines can open no more connections", "err", err)
			}
			return
		}
		r.deliver(guest.(*net.TCPConn))
	}
}

// deliver gives a VM's end to its connection.
func (r *Relay) deliver(vm *net.TCPConn) {
	f := flow{addrPort(vm.RemoteAddr()), addrPort(vm.LocalAddr())}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.latest[f]
	// A VM that is gone is told by Apply; for the rest see dialWorld.
	if c == nil || c.accepted || errors.Join(vm.SetKeepAlive(false), vm.SetLinger(0)) != nil {
		reset(vm)
		return
	}
	c.accepted = true
	c.vmEnd <- vm // has room
}

func addrPort(a net.Addr) netip.AddrPort {
	at := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
