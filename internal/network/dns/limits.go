package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"

	"banger/internal/accept"
)

// What one guest may have. Together they are bounded by the number of guests, whose addresses the
// bridge has verified.
const (
	queriesPerSecond = 200
	queriesBurst     = 400
	queriesAtOnce    = 32
	streamsAtOnce    = 8

	maxGuests = 4096 // remembered; more than a subnet's VMs at any time
)

// limits counts queries by guest.
type limits struct {
	mu     sync.Mutex
	guests map[netip.Addr]*guest
}

type guest struct {
	rate   *rate.Limiter
	atOnce int
}

func newLimits() *limits { return &limits{guests: map[netip.Addr]*guest{}} }

// take reports whether a guest may ask now; then release must be called after the answer.
func (l *limits) take(a netip.Addr) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.guests[a]
	if g == nil {
		l.forgetIdle()
		if len(l.guests) >= maxGuests {
			return nil, false
		}
		g = &guest{rate: rate.NewLimiter(queriesPerSecond, queriesBurst)}
		l.guests[a] = g
	}
	if g.atOnce >= queriesAtOnce || !g.rate.Allow() {
		return nil, false
	}
	g.atOnce++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		g.atOnce--
	}, true
}

// forgetIdle makes room when the map is full: guests without a query, whose allowance is whole
// again. l.mu is held.
func (l *limits) forgetIdle() {
	if len(l.guests) < maxGuests {
		return
	}
	for a, g := range l.guests {
		if g.atOnce == 0 && g.rate.Tokens() >= queriesBurst {
			delete(l.guests, a)
		}
	}
}

// boundedListener closes streams of a guest that has too many.
type boundedListener struct {
	net.Listener
	ctx context.Context // of Serve
	log *slog.Logger

	shortage sync.Once // logged once, for guests could fill a log

	mu     sync.Mutex
	guests map[netip.Addr]int
}

func newBoundedListener(ctx context.Context, l net.Listener, log *slog.Logger) *boundedListener {
	return &boundedListener{Listener: l, ctx: ctx, log: log, guests: map[netip.Addr]int{}}
}

// Accept returns the next stream of a guest that may have one more.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		// What passes must not reach the library, which would try again at once.
		conn, err := accept.Next(l.ctx, l.Listener, func(err error) {
			l.shortage.Do(func() { l.log.ErrorContext(l.ctx, "take a guest's stream", "err", err) })
		})
		if err != nil {
			return nil, err
		}
		peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err == nil && l.add(peer.Addr()) {
			return &boundedConn{Conn: conn, release: sync.OnceFunc(func() { l.remove(peer.Addr()) })}, nil
		}
		conn.Close()
	}
}

func (l *boundedListener) add(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.guests[a] >= streamsAtOnce {
		return false
	}
	l.guests[a]++
	return true
}

func (l *boundedListener) remove(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.guests[a]--; l.guests[a] == 0 {
		delete(l.guests, a)
	}
}

type boundedConn struct {
	net.Conn
	release func()
}

// Close closes the stream and gives its place back.
func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
