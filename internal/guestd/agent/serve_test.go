package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"testing"

	"connectrpc.com/connect"
	"github.com/mdlayher/vsock"

	"banger/internal/guestd/system"
	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

// serveAgent serves a guest's agent, whose root is this machine's, on a unix socket, and gives the
// generated client of it: what internal/guest never sends can be sent with that.
func serveAgent(t testing.TB, root string) (*Server, agentv1connect.AgentClient) {
	t.Helper()
	server := New(Config{Record: system.Record{Init: system.InitNone}, Root: root, Log: slog.New(slog.DiscardHandler)})
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "agent"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
		},
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	client := &http.Client{Transport: ourProtocol{transport}}
	return server, agentv1connect.NewAgentClient(client, "http://agent")
}

// ourProtocol names the agent's protocol in each request.
type ourProtocol struct{ next http.RoundTripper }

func (p ourProtocol) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(agentv1.ProtocolHeader, strconv.Itoa(agentv1.Protocol))
	return p.next.RoundTrip(r)
}

// checkCode wants an error of Connect with that code, whose message has want in it.
func checkCode(t *testing.T, when string, err error, code connect.Code, want string) {
	t.Helper()
	if connect.CodeOf(err) != code || !contains(err, want) {
		t.Errorf("%s: got %v, want %v with %q", when, err, code, want)
	}
}

// peers is a listener that gives one connection from each of some vsock contexts, and then fails.
type peers struct {
	net.Listener
	contexts []uint32
	closed   []uint32
}

func (p *peers) Accept() (net.Conn, error) {
	if len(p.contexts) == 0 {
		return nil, io.EOF
	}
	id := p.contexts[0]
	p.contexts = p.contexts[1:]
	return &peer{id: id, of: p}, nil
}

type peer struct {
	net.Conn
	id uint32
	of *peers
}

func (c *peer) RemoteAddr() net.Addr { return &vsock.Addr{ContextID: c.id, Port: 7} }
func (c *peer) Close() error         { c.of.closed = append(c.of.closed, c.id); return nil }

// A process of the guest that connects by vsock would be root by that: it is sent away.
func TestHostOnly(t *testing.T) {
	from := &peers{contexts: []uint32{vsock.Local, 3, vsock.Host, 5}}
	conn, err := hostOnly{from}.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.(*peer).id; got != vsock.Host || len(from.closed) != 2 {
		t.Errorf("let in context %d after %v, want the host's alone", got, from.closed)
	}
	if _, err := (hostOnly{from}).Accept(); !errors.Is(err, io.EOF) || len(from.closed) != 3 {
		t.Errorf("got %v after %v, want EOF once all others were sent away", err, from.closed)
	}
}

// An agent on a machine that has neither vsock nor the port waits for them until it is ended, and
// that is no error.
func TestServeHostEnds(t *testing.T) {
	server := New(Config{Record: system.Record{Init: system.InitNone}, Root: "/", Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.ServeHost(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := server.WaitBooted(t.Context(), &agentv1.WaitBootedRequest{}); err != nil {
		t.Errorf("an init that says nothing has booted: %v", err)
	}
}

func TestServeSessionErrors(t *testing.T) {
	server := New(Config{Record: system.Record{Init: system.InitNone}, Root: "/", Log: slog.New(slog.DiscardHandler)})
	defer server.Close()
	if err := server.serveSession(t.Context(), filepath.Join(t.TempDir(), "none")); !contains(err, "open serial port: ") {
		t.Errorf("without a port: %v", err)
	}
	if err := server.serveSession(t.Context(), "/dev/null"); !contains(err, "greet host: ") {
		t.Errorf("a port that ends at once: %v", err)
	}
}
