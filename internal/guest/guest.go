// Package guest is the host's side of the agent in a VM: it speaks proto/agent/v1 over a vsock
// stream and gives plain Go values. The daemon is its only user; nothing here knows how a VM runs.
package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"

	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

// Port is the vsock port on which the agent listens.
const Port = agentv1.Port

// streamWindowBytes bounds what the host holds of a stream that nobody reads here. frameBytes lets
// the agent send each chunk whole: a frame costs a guest under emulation more than its bytes do.
const (
	streamWindowBytes = 1 << 20
	frameBytes        = 2 * agentv1.MaxChunkBytes
)

// Client speaks to one VM's agent. It is safe for concurrent use, keeps one HTTP/2 connection open,
// and dials again when that has broken; calls that were on it fail with ErrUnreachable.
type Client struct {
	dial      func(context.Context) (net.Conn, error)
	transport *http.Transport
	agent     agentv1connect.AgentClient

	mu      sync.Mutex
	conn    *http.ClientConn // nil before the first dial
	dialing chan struct{}    // closed when the dial under way has ended; nil when none is
	closed  bool
}

// New makes a client that connects with dial, at its first call. Close ends it.
func New(dial func(context.Context) (net.Conn, error)) *Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	c := &Client{dial: dial}
	c.transport = &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{MaxReceiveBufferPerStream: streamWindowBytes, MaxReadFrameSize: frameBytes},
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}
	c.agent = agentv1connect.NewAgentClient(&http.Client{Transport: c}, "http://agent",
		connect.WithReadMaxBytes(agentv1.MaxMessageBytes), connect.WithAcceptCompression("gzip", nil, nil))
	return c
}

// Close ends the connection and all calls on it. Later calls fail. Closing twice is harmless.
func (c *Client) Close() error {
	c.mu.Lock()
	conn := c.conn
	c.conn, c.closed = nil, true
	c.mu.Unlock()
	if conn == nil {
		return nil
	}
	return conn.Close()
}

// RoundTrip sends one request on the client's connection. It is there for Connect, which calls it.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	conn, err := c.connected(r.Context())
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set(agentv1.ProtocolHeader, strconv.Itoa(agentv1.Protocol))
	response, err := conn.RoundTrip(r)
	if err != nil {
		return nil, errors.Join(ErrUnreachable, err)
	}
	if err := checkProtocol(response.Header.Get(agentv1.ProtocolHeader)); err != nil {
		response.Body.Close()
		return nil, err
	}
	body := &cancelledBody{ReadCloser: response.Body}
	body.stop = context.AfterFunc(r.Context(), func() { body.ReadCloser.Close() })
	response.Body = body
	return response, nil
}

// cancelledBody is closed when the request's context ends. net/http itself does not see that while
// the request's body waits for the peer to take more, which a process that does not read its input
// can make last for ever.
type cancelledBody struct {
	io.ReadCloser
	stop func() bool
}

func (b *cancelledBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

// connected gives the open connection, or makes one. Of callers at once one dials; the others wait
// for it, each no longer than its own context.
func (c *Client) connected(ctx context.Context) (*http.ClientConn, error) {
	for {
		c.mu.Lock()
		switch {
		case c.closed:
			c.mu.Unlock()
			return nil, errors.Join(ErrUnreachable, net.ErrClosed)
		case c.conn != nil && c.conn.Err() == nil:
			defer c.mu.Unlock()
			return c.conn, nil
		case c.dialing == nil:
			c.dialing = make(chan struct{})
			c.mu.Unlock()
			return c.redial(ctx)
		}
		dialing := c.dialing
		c.mu.Unlock()
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// redial replaces the connection. The caller has set c.dialing.
func (c *Client) redial(ctx context.Context) (*http.ClientConn, error) {
	conn, err := c.transport.NewClientConn(ctx, "http", net.JoinHostPort("agent", strconv.Itoa(Port)))
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.dialing)
	c.dialing = nil
	if err != nil {
		return nil, errors.Join(ErrUnreachable, err)
	}
	if c.closed {
		conn.Close()
		return nil, errors.Join(ErrUnreachable, net.ErrClosed)
	}
	if c.conn != nil {
		c.conn.Close()
	}
	c.conn = conn
	return conn, nil
}

// Deadlines of calls whose context has none of its own that is earlier.
const (
	callTimeout      = 10 * time.Second
	configureTimeout = 30 * time.Second // of Configure, which waits for the card, for systemd and for its turn
	syncTimeout      = 2 * time.Minute  // of Sync and Shutdown, which write all that is dirty
	attemptTimeout   = 5 * time.Second  // of one try of WaitReady: a guest under emulation may be slow to answer
	firstRetryPause  = time.Millisecond
	lastRetryPause   = 10 * time.Millisecond
)

// WaitReady tries until the agent answers, and gives its first answer. It fails when ctx ends, with
// the last reason why not, and at once when the agent is of another protocol.
func (c *Client) WaitReady(ctx context.Context) (Health, error) {
	pause := firstRetryPause
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		health, err := c.Health(attempt)
		cancel()
		var protocol *ProtocolError
		if err == nil || errors.As(err, &protocol) {
			return health, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			pause = min(2*pause, lastRetryPause)
		case <-ctx.Done():
			timer.Stop()
			return Health{}, errors.Join(context.Cause(ctx), err)
		}
	}
}
