// Package relay carries connections of VMs with a socket at each end: inside the namespace, where they come from, and in the
// host's. Relay is for the world, Services for ports of the host's own loopback.
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

// Relay carries the TCP connections of VMs to the world, with a socket at each end, whatever the uplink is: so one policy
// holds for both, and what looks into connections has one place. pasta would translate TCP packet by packet, and lose or
// break fast uploads; root's veth would be faster, and a way of its own.
//
// A connection is let in only when the world has answered: its first packet comes to the tun device AskName and is kept while
// the relay dials, in the host's namespace. Given back there, it opens the connection to the relay's listener, which has any
// address; given to RefuseName it is refused. So a guest sees what it would see without a relay.
//
// The rules let through what a VM may have; the relay looks again, and closes connections of VMs that may no more.
type Relay struct {
	files       []*os.File
	ask, refuse *os.File // the first two
	listeners   []net.Listener
	log         *slog.Logger
	running     sync.WaitGroup
	ctx         context.Context // ends with Close
	cancel      context.CancelFunc
	shortage    sync.Once // of descriptors or memory: logged once, for guests could fill a log

	mu       sync.Mutex          // guards what follows
	allowed  map[netip.Addr]bool // VMs that reach the world, by each of their addresses
	passages map[*passage]bool   // all of them
	latest   map[flow]*passage   // a VM may use a port again while what it has sent before is still on its way
	count    map[netip.Addr]int  // of passages, by VM
}

// passage is a connection of a VM to the world, from its first packet on.
type passage struct {
	flow
	cancel context.CancelFunc
	vmEnd  chan *net.TCPConn // gets the VM's end when that has finished its handshake

	// Guarded by the relay's mu:
	let  bool // the world has answered, and the first packet may come in
	came bool // the VM's end has
}

// New makes a relay of the files that plan.Request.Relay gives, which it takes over.
func New(files []*os.File, log *slog.Logger) (_ *Relay, err error) {
	r := &Relay{log: log, passages: map[*passage]bool{}, latest: map[flow]*passage{}, count: map[netip.Addr]int{}}
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
	r.ask, r.refuse = files[0], files[1]
	for _, file := range files[2:] {
		listener, err := net.FileListener(file)
		if err != nil {
			return nil, fmt.Errorf("take the relay's socket: %w", err)
		}
		r.listeners = append(r.listeners, listener)
	}
	return r, nil
}

// Start begins to take connections. First packets that came while there was no keeper wait for it, so the VMs that reach the
// world must have been told before, or theirs would be dropped.
func (r *Relay) Start() {
	r.running.Go(r.readAsked)
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

// Serve makes the VMs that reach the world those whose ports say so, and ends the connections of others.
func (r *Relay) Serve(ports []network.Port) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed = map[netip.Addr]bool{}
	for _, p := range ports {
		if p.NAT {
			r.allowed[p.Address], r.allowed[network.Address6(p.Address)] = true, true
		}
	}
	for p := range r.passages {
		if !r.allowed[p.vm.Addr()] {
			p.cancel()
		}
	}
}

// readAsked takes the first packets of connections.
func (r *Relay) readAsked() {
	packet := make([]byte, 1<<16)
	for {
		n, err := r.ask.Read(packet)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				r.log.Error("VMs can open no more connections", "err", err)
			}
			return
		}
		r.begin(packet[:n])
	}
}

// begin starts the passage of a first packet. One that is sent again waits like the first, or comes in: the other may be lost.
func (r *Relay) begin(packet []byte) {
	f, ok := parseSYN(packet)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	p, let := r.enter(f, cancel)
	if let {
		_, _ = r.ask.Write(packet) // fails when the relay ends
	}
	if p == nil {
		cancel()
		return
	}
	first := bytes.Clone(packet)
	r.running.Go(func() {
		defer r.leave(p)
		r.carry(ctx, p, first)
	})
}

// enter makes the passage of a new connection. There is none for a connection that is on its way already, which may have been
// let in, and for one that the VM may not have. A first packet behind a handshake that was finished is of a new connection.
func (r *Relay) enter(f flow, cancel context.CancelFunc) (p *passage, let bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.latest[f]; p != nil && !p.came {
		return nil, p.let
	}
	if !r.allowed[f.vm.Addr()] || r.count[f.vm.Addr()] >= plan.MaxConns {
		return nil, false
	}
	p = &passage{flow: f, cancel: cancel, vmEnd: make(chan *net.TCPConn, 1)}
	r.passages[p], r.latest[f] = true, p
	r.count[f.vm.Addr()]++
	return p, false
}

// let notes that the world has answered.
func (r *Relay) let(p *passage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.let = true
}

func (r *Relay) leave(p *passage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.cancel()
	select {
	case vm := <-p.vmEnd: // came too late
		reset(vm)
	default:
	}
	delete(r.passages, p)
	if r.latest[p.flow] == p {
		delete(r.latest, p.flow)
	}
	vm := p.vm.Addr()
	if r.count[vm]--; r.count[vm] == 0 {
		delete(r.count, vm)
	}
}

// carry is the life of a connection.
func (r *Relay) carry(ctx context.Context, p *passage, first []byte) {
	world, err := dialWorld(ctx, p.remote)
	if err != nil {
		r.fail(err, first)
		return
	}
	defer world.Close()
	r.let(p)
	if _, err := r.ask.Write(first); err != nil {
		return // the relay ends
	}
	late := time.NewTimer(relayAcceptTimeout)
	defer late.Stop()
	select {
	case vm := <-p.vmEnd:
		defer vm.Close()
		defer context.AfterFunc(ctx, func() { reset(world); reset(vm) })()
		join(world, vm)
	case <-late.C:
	case <-ctx.Done():
	}
}

// fail tells the VM that its connection was refused, if it was: no answer is none for the VM too.
func (r *Relay) fail(err error, first []byte) {
	for _, answer := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM} {
		if errors.Is(err, answer) {
			_, _ = r.refuse.Write(first) // fails when the relay ends
			return
		}
	}
	for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, lack) {
			r.shortage.Do(func() { r.log.Error("VMs have more connections than this host allows", "err", err) })
		}
	}
}

// accept takes the VMs' ends.
func (r *Relay) accept(listener net.Listener) {
	for {
		conn, err := accept.Next(r.ctx, listener, func(err error) {
			r.shortage.Do(func() { r.log.Error("take a VM's connection", "err", err) })
		})
		if err != nil {
			if r.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				r.log.Error("VMs can open no more connections", "err", err)
			}
			return
		}
		r.admit(conn.(*net.TCPConn))
	}
}

// admit gives a VM's end to its passage.
func (r *Relay) admit(vm *net.TCPConn) {
	f := flow{addrPort(vm.RemoteAddr()), addrPort(vm.LocalAddr())}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.latest[f]
	// A VM that is gone is told by serve; for the rest see dialWorld.
	if p == nil || p.came || errors.Join(vm.SetKeepAlive(false), vm.SetLinger(0)) != nil {
		reset(vm)
		return
	}
	p.came = true
	p.vmEnd <- vm // has room
}

func addrPort(a net.Addr) netip.AddrPort {
	at := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
