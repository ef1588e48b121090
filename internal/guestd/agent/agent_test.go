package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger/internal/guestd/accounts"
	"banger/internal/guestd/system"
	"banger/internal/vsockmux"
	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCheckProtocol(t *testing.T) {
	tests := []struct{ name, header, want string }{
		{"Same", "1", ""},
		{"Newer", "2", "failed_precondition: the machine runs an agent of protocol 1, this banger speaks 2: restart the machine"},
		{"Absent", "", "failed_precondition: the caller is no banger: it names no agent protocol"},
		{"Garbage", "one", "failed_precondition: the caller is no banger: it names no agent protocol"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, handler := agentv1connect.NewAgentHandler(agentv1connect.UnimplementedAgentHandler{})
			server := httptest.NewServer(checkProtocol(1, handler))
			defer server.Close()
			var got string
			http := &http.Client{Transport: headerTransport{tt.header, &got}}
			_, err := agentv1connect.NewAgentClient(http, server.URL).Sync(t.Context(), &agentv1.SyncRequest{})
			if tt.want == "" && connect.CodeOf(err) != connect.CodeUnimplemented {
				t.Errorf("got %v, want to come through", err)
			}
			if tt.want != "" && (err == nil || err.Error() != tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if got != "1" {
				t.Errorf("the response says protocol %q, want 1", got)
			}
		})
	}
}

// headerTransport sends one protocol header and keeps the other.
type headerTransport struct {
	send string
	got  *string
}

func (h headerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set(agentv1.ProtocolHeader, h.send)
	r.Close = true
	response, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		*h.got = response.Header.Get(agentv1.ProtocolHeader)
	}
	return response, err
}

var userOfTests = accounts.User{Name: "dev", Home: "/home/dev", Shell: "/bin/bash"}

func TestEnvironment(t *testing.T) {
	got := environment(userOfTests, &agentv1.ExecStart{
		Env:      []string{"PATH=/bin", "A=1=2", "A=3"},
		Terminal: &agentv1.Terminal{},
	})
	want := []string{
		"HOME=/home/dev", "USER=dev", "LOGNAME=dev", "SHELL=/bin/bash", "PATH=/bin",
		"TERM=xterm-256color", "A=3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for path, mode := range map[string]os.FileMode{"a/tool": 0o644, "b/tool": 0o755, "a/data": 0o644, "here": 0o755} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, mode)); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=" + dir + "/none:" + dir + "/a:" + dir + "/b"}
	tests := []struct {
		name, command, want string
		code                int32
	}{
		{"SkipsNotExecutable", "tool", dir + "/b/tool", 0},
		{"Relative", "./here", dir + "/here", 0},
		{"ErrNotExecutable", "data", "", codeNotExecutable},
		{"ErrNotFound", "nothing", "", codeNotFound},
		{"ErrNoFile", "./nothing", "", codeNotFound},
		{"ErrThroughFile", "./here/x", "", codeNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := lookPath(tt.command, dir, env)
			if tt.code == 0 {
				if err != nil || got != tt.want {
					t.Errorf("got %q, %v, want %q", got, err, tt.want)
				}
				return
			}
			var not *notStarted
			if !errors.As(err, &not) || not.code != tt.code {
				t.Errorf("got %v, want code %d", err, tt.code)
			}
		})
	}
}

func TestPrettyName(t *testing.T) {
	for in, want := range map[string]string{
		"ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n": "Debian GNU/Linux 13 (trixie)",
		"PRETTY_NAME='Alpine Linux'":                                "Alpine Linux",
		"PRETTY_NAME=Arch":                                          "Arch",
		"ID=x":                                                      "",
		"PRETTY_NAME=" + strings.Repeat("x", 1000):                  strings.Repeat("x", 200),
	} {
		if got := prettyName([]byte(in)); got != want {
			t.Errorf("%.40q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzPrettyName(f *testing.F) {
	f.Add([]byte("PRETTY_NAME=\"a\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		if name := prettyName(b); len(name) > 200 {
			t.Errorf("name of %d bytes", len(name))
		}
	})
}

func TestOpenRCBooted(t *testing.T) {
	run := t.TempDir()
	check := func(when string, want bool) {
		t.Helper()
		if got := openRCBooted(run); got != want {
			t.Errorf("%s: booted %v, want %v", when, got, want)
		}
	}
	check("before OpenRC", false)
	os.WriteFile(run+"/softlevel", []byte("sysinit\n"), 0o644)
	check("in sysinit", false)
	os.WriteFile(run+"/softlevel", []byte("default\n"), 0o644)
	os.Mkdir(run+"/rc.starting", 0o755)
	check("while default starts", false)
	os.Remove(run + "/rc.starting")
	check("in default", true)
}

func TestScriptWatch(t *testing.T) {
	own := map[string]string{"1": "1 (banger-guest) S 0", "5": "5 (sh) S 1"}
	alone := map[string]string{"1": "1 (init) S 0", "5": "5 (banger-guest) S 1"}
	forking := map[string]string{"1": "1 (init) S 0", "6": "6 (init) S 1"}
	scripts := map[string]string{"1": "1 (init) S 0", "6": "6 (rc) S 1", "7": "7 (getty) S 1"}
	done := map[string]string{"1": "1 (init) S 0", "5": "5 (banger-guest) S 1", "7": "7 (getty) S 1", "9": "9 (rc) S 7"}
	tests := []struct {
		name  string
		looks []map[string]string
		want  bool // of the last look
	}{
		{"OwnInit", []map[string]string{own}, false},
		{"NotBegun", []map[string]string{alone}, false},
		{"Forking", []map[string]string{alone, forking}, false},
		{"Scripts", []map[string]string{forking, scripts}, false},
		{"Getty", []map[string]string{scripts, done}, true},
		{"NoGetty", []map[string]string{scripts, alone}, true},
		{"NextScript", []map[string]string{scripts, alone, scripts}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			watch, got := new(scriptWatch), false
			for _, stats := range tt.looks {
				watch.proc = t.TempDir()
				for pid, stat := range stats {
					os.Mkdir(filepath.Join(watch.proc, pid), 0o755)
					os.WriteFile(filepath.Join(watch.proc, pid, "stat"), []byte(stat), 0o644)
				}
				got = watch.done()
			}
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSteady(t *testing.T) {
	answers := []bool{true, true, false, true, true, true}
	var got []bool
	check := steady(3, func() bool { a := answers[len(got)]; return a })
	for range answers {
		got = append(got, check())
	}
	if diff := cmp.Diff([]bool{false, false, false, false, false, true}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPoolInfo(t *testing.T) {
	got := poolInfo([]byte{1, 2, 3})
	if want := []byte{24, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3}; cmp.Diff(want, got) != "" {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for port, name := range map[string]string{"vport1p0": "other\n", "vport2p1": vsockmux.PortName + "\n"} {
		os.Mkdir(filepath.Join(class, port), 0o755)
		os.WriteFile(filepath.Join(class, port, "name"), []byte(name), 0o644)
	}
	if got := findPort(class, "/dev"); got != "/dev/vport2p1" {
		t.Errorf("got %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := waitPort(ctx, t.TempDir(), "/dev"); err == nil {
		t.Error("found a port where none is")
	}
}

// The serial port is a pseudo-terminal here. A session that breaks is followed by a new one.
func TestServeSerial(t *testing.T) {
	class, dev := t.TempDir(), t.TempDir()
	os.Mkdir(filepath.Join(class, "vport0p1"), 0o755)
	os.WriteFile(filepath.Join(class, "vport0p1", "name"), []byte(vsockmux.PortName), 0o644)
	server := New(Config{Record: system.Record{Init: system.InitNone}, Root: "/", Log: slog.New(slog.DiscardHandler)})
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	port := rawTerminal(t, filepath.Join(dev, "vport0p1"))
	go func() { ended <- server.serveSerial(ctx, class, dev) }()
	for range 2 {
		own, err := unix.FcntlInt(port.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(own, true); err != nil {
			t.Fatal(err)
		}
		session, err := vsockmux.Host(t.Context(), os.NewFile(uintptr(own), "port"))
		if err != nil {
			t.Fatal(err)
		}
		var health *agentv1.HealthResponse
		for health == nil {
			conn, err := session.Dial(t.Context(), agentv1.Port)
			if errors.Is(err, vsockmux.ErrRefused) {
				continue // the session is there before its listener
			}
			if err != nil {
				t.Fatal(err)
			}
			health = askHealth(t, conn)
		}
		if health.Protocol != agentv1.Protocol {
			t.Errorf("protocol %d", health.Protocol)
		}
		session.Close()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func askHealth(t *testing.T, conn net.Conn) *agentv1.HealthResponse {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols:   protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}
	defer transport.CloseIdleConnections()
	ctx, call := connect.NewClientContext(t.Context())
	call.RequestHeader().Set(agentv1.ProtocolHeader, strconv.Itoa(agentv1.Protocol))
	client := agentv1connect.NewAgentClient(&http.Client{Transport: transport}, "http://agent")
	h, err := client.Health(ctx, &agentv1.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}
