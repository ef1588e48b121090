package network

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/home"

	"golang.org/x/sys/unix"
)

// serve has a handler answer as a keeper of the home would.
func serve(t *testing.T, folder string, handler http.HandlerFunc) *Client {
	t.Helper()
	c := NewClient(home.Dir(folder), true, nil)
	if err := os.MkdirAll(string(c.Dir()), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", c.Dir().ControlSocket())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	return c
}

func hold(t *testing.T, c *Client) (release func()) {
	t.Helper()
	lock, err := os.Create(c.Dir().Lock())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	return func() { lock.Close() }
}

func TestClientAsks(t *testing.T) {
	var asked, body string
	c := serve(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.EscapedPath()
		var got json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&got)
		body = string(got)
		_ = json.NewEncoder(w).Encode(Tap{Name: "tap0", MTU: 1500})
	})
	ctx := t.Context()
	endpoint := Endpoint{ID: "a/b", Name: "one", MAC: "m", Address: netip.MustParseAddr("172.30.0.2"), Policy: Policy{NAT: true}}
	for _, tt := range []struct {
		name, asked, body string
		ask               func() error
	}{
		{"Attach", "PUT /ports", `{"id":"a/b","name":"one","mac":"m","address":"172.30.0.2","nat":true,"isolated":false}`, func() error {
			tap, err := c.Attach(ctx, endpoint)
			if tap.Name != "tap0" {
				t.Errorf("the tap is %+v", tap)
			}
			return err
		}},
		{"Detach", "DELETE /ports/a%2Fb", "", func() error { return c.Detach(ctx, "a/b") }},
		{"SetPolicy", "PUT /ports/a%2Fb/policy", `{"nat":false,"isolated":true,"host_services":[80]}`, func() error {
			return c.SetPolicy(ctx, "a/b", Policy{Isolated: true, HostServices: []int{80}})
		}},
		{"Status", "GET /status", "", func() error { _, err := c.Status(ctx); return err }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.ask(); err != nil || asked != tt.asked || body != tt.body {
				t.Errorf("asked %q with %q, %v, want %q with %q", asked, body, err, tt.asked, tt.body)
			}
		})
	}
}

func TestClientIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		status   int
		body     string
		want     string
		notFound bool
	}{
		{"ErrNotFound", http.StatusNotFound, `{"error":"nobody"}`, "nobody", true},
		{"ErrBad", http.StatusBadRequest, `{"error":"no DNS label"}`, "no DNS label", false},
		{"ErrNoJSON", http.StatusInternalServerError, "oops", "500", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, t.TempDir(), func(w http.ResponseWriter, _ *http.Request) { http.Error(w, tt.body, tt.status) })
			err := c.SetPolicy(t.Context(), "one", Policy{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrNotFound) != tt.notFound {
				t.Errorf("got %v, want %q, ErrNotFound %t", err, tt.want, tt.notFound)
			}
		})
	}
}

// Whether a keeper runs is said by the lock alone.
func TestRunning(t *testing.T) {
	c := NewClient(home.Dir(t.TempDir()), true, nil)
	if running, err := c.Running(); running || err != nil || c.Exists() {
		t.Errorf("before: running %t, %v, exists %t", running, err, c.Exists())
	}
	release := hold(t, c)
	if running, err := c.Running(); !running || err != nil {
		t.Errorf("held: running %t, %v", running, err)
	}
	release()
	if running, err := c.Running(); running || err != nil {
		t.Errorf("released: running %t, %v", running, err)
	}
	long := NewClient(home.Dir("/"+strings.Repeat("x", home.MaxSocketPathBytes)), true, nil)
	if _, err := long.Running(); err == nil || api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a path that is too long: %v", err)
	}
}

// A keeper that another process starts is waited for until it answers, or the wait ends.
func TestEnsureWaits(t *testing.T) {
	answer := make(chan struct{})
	c := serve(t, t.TempDir(), func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-answer:
			_ = json.NewEncoder(w).Encode(Status{})
		default:
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	})
	hold(t, c)
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Ensure(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the wait", err)
	}
	close(answer)
	if err := c.Ensure(t.Context()); err != nil {
		t.Error(err)
	}
}

// Stop returns when the keeper is gone, not when it has answered.
func TestStopWaits(t *testing.T) {
	var release func()
	asked := make(chan struct{})
	c := serve(t, t.TempDir(), func(w http.ResponseWriter, _ *http.Request) { close(asked) })
	release = hold(t, c)
	stopped := make(chan error, 1)
	go func() { stopped <- c.Stop(t.Context()) }()
	<-asked
	select {
	case err := <-stopped:
		t.Errorf("ended with %v while the keeper runs", err)
	default:
	}
	release()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := c.Stop(t.Context()); err != nil { // of one that does not run
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	for _, tt := range []struct{ name, script, want string }{
		{"ErrSilent", "exit 1", "the process died, see "},
		{"ErrSaid", `echo '{"error":"no pasta"}' >&3`, "start network: no pasta"},
		{"ErrNonsense", "echo hello >&3", "hear why"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := NewClient(home.Dir(t.TempDir()), true, []string{"sh", "-c", tt.script}).Ensure(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if err := NewClient(home.Dir(t.TempDir()), true, []string{"/nonexistent"}).Ensure(t.Context()); err == nil {
		t.Error("a program that is not there is no error")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := NewClient(home.Dir(t.TempDir()), true, []string{"sh", "-c", "exec sleep 60"}).Ensure(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a keeper that is never ready: %v", err)
	}
}
