package httpapi

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/internal/control"
)

// patience bounds whatever a test waits for.
const patience = 20 * time.Second

// served is a Server behind a socket, with the API's own client.
type served struct {
	*Server
	log    *logBuffer
	client *api.Client
	socket string
	end    context.CancelFunc // of requests and sessions, as a daemon that is cut does it
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns the lines that have been logged since the last call.
func (l *logBuffer) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimSuffix(l.b.String(), "\n")
	l.b.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// serve puts a Server of a Control behind a socket until the test's end, when no request or session
// may be left. bind binds operations in place of all those of the Control.
func serve(t *testing.T, c *control.Control, bind func(*Server)) *served {
	t.Helper()
	dir, err := os.MkdirTemp("", "bh") // short: socket paths have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &served{log: &logBuffer{}, socket: filepath.Join(dir, "s")}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	if bind == nil {
		s.Server = New(ctx, c, log)
	} else {
		s.Server = &Server{gate: c.Gate, log: log, ctx: ctx, mux: http.NewServeMux(), bound: map[string]bool{}}
		bind(s.Server)
	}
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.Server, BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	s.client = api.NewClient(s.socket)
	t.Cleanup(func() {
		s.client.CloseIdle()
		end()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("requests are left: %v", err)
		}
		<-ended
		s.Wait()
		os.RemoveAll(dir)
	})
	return s
}

// serveOps serves operations of the test's own.
func serveOps(t *testing.T, bind func(*Server)) *served {
	t.Helper()
	return serve(t, control.New(control.Options{}), bind)
}

// await returns what comes out of a channel, in time.
func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing within %s", what, patience)
		panic("unreachable")
	}
}

// transport reaches the socket without the API's client.
func (s *served) transport() *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.socket)
	}}
}
