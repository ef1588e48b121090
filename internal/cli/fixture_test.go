package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"

	"banger/api"
	"banger/internal/home"
)

// result is what a command line gave.
type result struct {
	code           int
	stdout, stderr string
}

// buffer is a writer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// banger runs one command line in a home folder.
func banger(t *testing.T, home string, args ...string) result {
	t.Helper()
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	vars := map[string]string{"HOME": home, "BANGER_HOME": home, "HERE": "yes"}
	var stdout, stderr buffer
	code := Run(
		t.Context(),
		Process{Args: args, Stdin: stdin, Stdout: &stdout, Stderr: &stderr, Getenv: func(k string) string { return vars[k] }},
	)
	return result{code, stdout.String(), stderr.String()}
}

// fakeDaemon serves handlers by pattern, as a daemon of this very build, and returns its home
// folder.
func fakeDaemon(t *testing.T, handlers map[string]http.HandlerFunc) string {
	t.Helper()
	status := ofThisBuild(t)
	status.Version, status.Machines, status.RunningMachines, status.UptimeMS, status.RSSBytes = "v1", 3, 1, 61_000, 1<<20
	return fakeDaemonOf(t, status, handlers)
}

// fakeDaemonOf is fakeDaemon with another status.
func fakeDaemonOf(t *testing.T, status api.DaemonStatus, handlers map[string]http.HandlerFunc) string {
	t.Helper()
	all := maps.Clone(handlers)
	if all == nil {
		all = map[string]http.HandlerFunc{}
	}
	all["GET /v1/daemon"] = says(status)
	return fakeServer(t, all)
}

// fakeServer serves handlers where a daemon would, and returns the home folder.
func fakeServer(t *testing.T, handlers map[string]http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bcli")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", home.Dir(dir).Socket())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, handler := range handlers {
		mux.HandleFunc(pattern, handler)
	}
	server := httptest.NewUnstartedServer(mux)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(func() {
		server.Close()
		os.RemoveAll(dir)
	})
	return dir
}

func says(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		json.NewEncoder(w).Encode(v)
	}
}

func refuses(e *api.Error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(e.Status())
		json.NewEncoder(w).Encode(e)
	}
}
