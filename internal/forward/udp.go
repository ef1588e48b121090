package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"banger/internal/accept"
)

const (
	// maxPeers bounds those who send to a forward at a time; a new one takes the place of the one
	// silent for longest.
	maxPeers = 256
	// maxQueued bounds the datagrams of one peer on their way to the guest; more are dropped, as a
	// full socket would.
	maxQueued = 64
	// peerIdle is how long a peer may be silent, both ways, before it is forgotten.
	peerIdle = 2 * time.Minute
)

// peers are those who sent to a udp forward. Each has a socket of its own in the guest, so that
// answers find their way.
type peers struct {
	*Forward
	local *net.UDPConn

	mu  sync.Mutex
	all map[netip.AddrPort]*peer
}

type peer struct {
	queue  chan []byte
	cancel context.CancelFunc
	heard  time.Time // last datagram either way; guarded by peers.mu
}

func (f *Forward) listenUDP() error {
	local, err := new(net.ListenConfig).ListenPacket(f.ctx, "udp", f.Listen())
	if err != nil {
		return err
	}
	p := &peers{Forward: f, local: local.(*net.UDPConn), all: map[netip.AddrPort]*peer{}}
	f.HostPort = chosenPort(local.LocalAddr())
	// Answers go out through the same socket, so nothing is left of a peer when it is closed.
	f.stop = func() error {
		f.cancel()
		return local.Close()
	}
	f.conns.Go(p.receive)
	f.conns.Go(p.forgetSilent)
	return nil
}

func (p *peers) receive() {
	buf := make([]byte, chunkBytes)
	failing := false
	for {
		n, from, err := p.local.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// One may be of a peer that went away, and says nothing of the socket. More in a row
			// must not take a CPU.
			if failing && accept.Pause(p.ctx) != nil {
				return
			}
			failing = true
			continue
		}
		failing = false
		select {
		case p.peer(from).queue <- append([]byte(nil), buf[:n]...):
		default: // full
		}
	}
}

// peer returns the one at that address, who is new perhaps.
func (p *peers) peer(from netip.AddrPort) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.all[from]
	if known == nil {
		if len(p.all) >= maxPeers {
			p.forgetOldest()
		}
		ctx, cancel := context.WithCancel(p.ctx)
		known = &peer{queue: make(chan []byte, maxQueued), cancel: cancel}
		p.all[from] = known
		p.conns.Go(func() { p.serve(ctx, from, known) })
	}
	known.heard = time.Now()
	return known
}

// forgetOldest makes room. p.mu must be held.
func (p *peers) forgetOldest() {
	var oldest netip.AddrPort
	for from, one := range p.all {
		if known := p.all[oldest]; known == nil || one.heard.Before(known.heard) {
			oldest = from
		}
	}
	p.all[oldest].cancel()
	delete(p.all, oldest)
}

func (p *peers) forgetSilent() {
	tick := time.NewTicker(peerIdle / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return
		}
		p.mu.Lock()
		for from, one := range p.all {
			if time.Since(one.heard) > peerIdle {
				one.cancel()
				delete(p.all, from)
			}
		}
		p.mu.Unlock()
	}
}

// serve carries one peer's datagrams until it is forgotten or the guest's socket breaks.
func (p *peers) serve(ctx context.Context, from netip.AddrPort, one *peer) {
	defer p.forget(from, one)
	remote, err := p.dial(ctx)
	if err != nil {
		p.log.Debug("connect", "error", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { remote.Close() })
	defer stop()
	defer remote.Close()
	p.conns.Go(func() {
		defer one.cancel()
		p.answer(from, one, remote)
	})
	for {
		select {
		case data := <-one.queue:
			if remote.Send(data) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (p *peers) answer(to netip.AddrPort, one *peer, remote Conn) {
	for {
		data, err := remote.Recv()
		if err != nil {
			p.log.Debug("connection", "error", err)
			return
		}
		if _, err := p.local.WriteToUDPAddrPort(data, to); errors.Is(err, net.ErrClosed) {
			return
		}
		p.mu.Lock()
		one.heard = time.Now()
		p.mu.Unlock()
	}
}

func (p *peers) forget(from netip.AddrPort, one *peer) {
	one.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all[from] == one { // another may have come in its place
		delete(p.all, from)
	}
}
