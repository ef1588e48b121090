package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve starts a daemon made of one handler and returns a client of it.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	client := NewClient(socket)
	t.Cleanup(func() {
		client.CloseIdle()
		server.CloseClientConnections()
		server.Close()
	})
	return client
}

// say is a handler that always answers the same.
func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// breakOff sends a part of an answer and cuts the connection.
func breakOff(part string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, part)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// Every method asks for the path and body that the daemon's routes expect.
func TestClientRequests(t *testing.T) {
	progress := func(Progress) {}
	tests := []struct {
		name string
		do   func(context.Context, *Client) error
		want string
	}{
		{"Status", func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err }, "GET /v1/daemon "},
		{
			"StopDaemon",
			func(ctx context.Context, c *Client) error { return c.StopDaemon(ctx, StopDaemon{Drain: true}) },
			`POST /v1/daemon/stop {"drain":true}`,
		},
		{"Machine", func(ctx context.Context, c *Client) error { _, err := c.Machine(ctx, "web"); return err }, "GET /v1/machines/web "},
		{
			"VMEscaped",
			func(ctx context.Context, c *Client) error { _, err := c.Machine(ctx, "a/b?c"); return err },
			"GET /v1/machines/a%2Fb%3Fc ",
		},
		{"CreateMachine", func(ctx context.Context, c *Client) error {
			_, err := c.CreateMachine(ctx, CreateMachine{Name: "web", CPUs: 2}, progress)
			return err
		}, `POST /v1/machines {"name":"web","cpus":2}`},
		{"StartMachine", func(ctx context.Context, c *Client) error {
			_, err := c.StartMachine(ctx, StartMachine{Machine: "web"}, nil)
			return err
		}, `POST /v1/machines/web/start {}`},
		{"StopMachine", func(ctx context.Context, c *Client) error {
			_, err := c.StopMachine(ctx, StopMachine{Machine: "web", TimeoutMS: 5}, nil)
			return err
		}, `POST /v1/machines/web/stop {"timeout_ms":5}`},
		{"RestartMachine", func(ctx context.Context, c *Client) error {
			_, err := c.RestartMachine(ctx, RestartMachine{Machine: "web"}, nil)
			return err
		}, `POST /v1/machines/web/restart {}`},
		{"KillMachine", func(ctx context.Context, c *Client) error {
			_, err := c.KillMachine(ctx, KillMachine{Machine: "web", Signal: "TERM"})
			return err
		}, `POST /v1/machines/web/kill {"signal":"TERM"}`},
		{"RemoveMachine", func(ctx context.Context, c *Client) error {
			return c.RemoveMachine(ctx, RemoveMachine{Machine: "web", Force: true})
		}, "DELETE /v1/machines/web?force=true "},
		{"WaitMachine", func(ctx context.Context, c *Client) error {
			_, err := c.WaitMachine(ctx, WaitMachine{Machine: "web", For: WaitBooted})
			return err
		}, "GET /v1/machines/web/wait?for=booted "},
		{
			"StatsMachine",
			func(ctx context.Context, c *Client) error { _, err := c.StatsMachine(ctx, "web"); return err },
			"GET /v1/machines/web/stats ",
		},
		{"WriteFiles", func(ctx context.Context, c *Client) error {
			return c.WriteFiles(ctx, Files{Machine: "web", Path: "/a b"}, strings.NewReader("tar"))
		}, "PUT /v1/machines/web/files?path=%2Fa+b tar"},
		{
			"Image",
			func(ctx context.Context, c *Client) error { _, err := c.Image(ctx, "debian:trixie"); return err },
			"GET /v1/images/debian:trixie ",
		},
		{"RemoveImage", func(ctx context.Context, c *Client) error { return c.RemoveImage(ctx, "x") }, "DELETE /v1/images/x "},
		{"TagImage", func(ctx context.Context, c *Client) error {
			_, err := c.TagImage(ctx, TagImage{Image: "oci:a/b", Name: "c"})
			return err
		}, `POST /v1/images/oci:a%2Fb/tags {"name":"c"}`},
		{"PruneImages", func(ctx context.Context, c *Client) error {
			_, err := c.PruneImages(ctx, Prune{DryRun: true})
			return err
		}, "POST /v1/images/prune?dry_run=true "},
		{"RegisterImage", func(ctx context.Context, c *Client) error {
			_, err := c.RegisterImage(ctx, RegisterImage{Name: "x", Rootfs: "/r"}, nil)
			return err
		}, `POST /v1/images/register {"name":"x","rootfs":"/r"}`},
		{
			"PromoteImage",
			func(ctx context.Context, c *Client) error { _, err := c.PromoteImage(ctx, "x", nil); return err },
			"POST /v1/images/x/promote ",
		},
		{"SaveImage", func(ctx context.Context, c *Client) error {
			archive, err := c.SaveImage(ctx, "x")
			if err == nil {
				archive.Close()
			}
			return err
		}, "GET /v1/images/x/archive "},
		{"LoadImage", func(ctx context.Context, c *Client) error {
			_, err := c.LoadImage(ctx, LoadImage{Name: "a b"}, strings.NewReader("archive"), nil)
			return err
		}, "POST /v1/images/load?name=a+b archive"},
		{"ImportKernel", func(ctx context.Context, c *Client) error {
			_, err := c.ImportKernel(ctx, ImportKernel{Name: "x", Deb: "/d"}, nil)
			return err
		}, `POST /v1/kernels/import {"name":"x","deb":"/d"}`},
		{
			"PruneKernels",
			func(ctx context.Context, c *Client) error { _, err := c.PruneKernels(ctx, Prune{}); return err },
			"POST /v1/kernels/prune ",
		},
		{"PullKernel", func(ctx context.Context, c *Client) error {
			_, err := c.PullKernel(ctx, PullKernel{Source: "debian:sid"}, nil)
			return err
		}, `POST /v1/kernels {"source":"debian:sid"}`},
		{"RemoveKernel", func(ctx context.Context, c *Client) error { return c.RemoveKernel(ctx, "x") }, "DELETE /v1/kernels/x "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body)
				io.WriteString(w, `{"result":{}}`)
			})
			if err := tt.do(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClientCallErrors(t *testing.T) {
	tests := []struct {
		name     string
		daemon   http.HandlerFunc
		wantCode Code // "" when it is not the daemon's own error
		wantText string
	}{
		{"ErrCode", say(409, `{"code":"conflict","message":"taken","hint":"rm it"}`), CodeConflict, "taken"},
		{"ErrWithoutBody", say(502, ""), CodeInternal, "daemon answered 502 Bad Gateway"},
		{"ErrNotJSON", say(500, "oops\n"), CodeInternal, "daemon answered 500 Internal Server Error: oops"},
		{"ErrOtherJSON", say(500, `{"x":1}`), CodeInternal, `{"x":1}`},
		{"ErrHugeBody", say(500, strings.Repeat("x", 2*maxErrorBytes)), CodeInternal, "daemon answered 500"},
		{"BadJSON", say(200, "{"), "", "read the daemon's answer: unexpected EOF"},
		{"WrongType", say(200, `{"pid":"x"}`), "", "read the daemon's answer: json"},
		{"BrokenOff", breakOff(`{"pid":1,`), "", "read the daemon's answer: unexpected EOF"},
		{"BrokenOffBeforeAnswer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "", "reach daemon: EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := serve(t, tt.daemon).Status(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.wantText) {
				t.Fatalf("Status = %v, want %q", err, tt.wantText)
			}
			if len(err.Error()) > maxErrorBytes+100 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
			e, isAPI := errors.AsType[*Error](err)
			if isAPI != (tt.wantCode != "") || isAPI && e.Code != tt.wantCode {
				t.Errorf("Status = %#v, want code %q", err, tt.wantCode)
			}
		})
	}
}

func TestClientNobodyListens(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if _, err := NewClient(socket).Status(t.Context()); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("without a socket: %v, want ENOENT", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false) // as a daemon that was killed leaves it
	listener.Close()
	client := NewClient(socket)
	if _, err := client.Status(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), "http://") {
		t.Errorf("with a dead socket: %v, want ECONNREFUSED without a URL", err)
	}
	if _, err := client.Exec(t.Context(), Exec{Machine: "web"}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Exec with a dead socket: %v, want ECONNREFUSED", err)
	}
}

func TestClientStream(t *testing.T) {
	tests := []struct {
		name     string
		daemon   http.HandlerFunc
		want     string   // name of the resulting machine
		stages   []string // of the progress
		wantCode Code
		wantText string
	}{
		{
			name: "Result", daemon: say(200, `{"progress":{"stage":"a","state":"running"}}`+"\n"+`{"progress":{"stage":"a","state":"done"}}`+"\n"+`{"result":{"name":"web"}}`),
			want: "web", stages: []string{"a running", "a done"},
		},
		{name: "UnknownEventIsSkipped", daemon: say(200, `{"later":1}{"result":{"name":"web"}}`), want: "web"},
		{
			name: "ErrInStream", daemon: say(200, `{"progress":{"stage":"a","state":"failed"}}{"error":{"code":"timeout","message":"late"}}`),
			stages: []string{"a failed"}, wantCode: CodeTimeout, wantText: "late",
		},
		{name: "ErrBeforeStream", daemon: say(400, `{"code":"invalid","message":"bad"}`), wantCode: CodeInvalid, wantText: "bad"},
		{
			name:     "ErrNoResult",
			daemon:   say(200, `{"progress":{"stage":"a","state":"done"}}`),
			stages:   []string{"a done"},
			wantText: "read the daemon's answer: EOF",
		},
		{
			name:     "ErrBrokenOff",
			daemon:   breakOff(`{"progress":{"stage":"a","state":"running"}}` + "\n" + `{"resu`),
			stages:   []string{"a running"},
			wantText: "read the daemon's answer: unexpected EOF",
		},
		{name: "ErrBadJSON", daemon: say(200, "nonsense"), wantText: "invalid character"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stages []string
			vm, err := serve(
				t,
				tt.daemon,
			).StartMachine(t.Context(), StartMachine{Machine: "web"}, func(p Progress) { stages = append(stages, p.Stage+" "+string(p.State)) })
			if diff := cmp.Diff(tt.stages, stages); diff != "" {
				t.Errorf("progress (-want +got):\n%s", diff)
			}
			if tt.wantText == "" {
				if err != nil || vm.Name != tt.want {
					t.Errorf("StartMachine = %q, %v; want %q", vm.Name, err, tt.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.wantText) {
				t.Fatalf("StartMachine = %v, want %q", err, tt.wantText)
			}
			if e, _ := errors.AsType[*Error](err); tt.wantCode != "" && (e == nil || e.Code != tt.wantCode) {
				t.Errorf("StartMachine = %#v, want code %q", err, tt.wantCode)
			}
		})
	}
}

func TestClientStreamCanceled(t *testing.T) {
	ended := make(chan struct{})
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"progress":{"stage":"a","state":"running"}}`)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := client.StartMachine(ctx, StartMachine{Machine: "web"}, func(Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("StartMachine = %v, want canceled", err)
	}
	await(t, ended, "the daemon was not told that the client left")
}

// await fails when a channel is not closed in time.
func await(t *testing.T, done <-chan struct{}, otherwise string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal(otherwise)
	}
}

func TestClientLeaseEndsWithContext(t *testing.T) {
	ended := make(chan struct{})
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	if err := client.LeaseMachine(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("the lease ended by itself")
	default:
	}
	cancel()
	await(t, ended, "the lease did not end with its context")
}

func TestClientReadFilesCut(t *testing.T) {
	files, err := serve(t, breakOff("half a tar")).ReadFiles(t.Context(), Files{Machine: "web", Path: "/etc"})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if got, err := io.ReadAll(files); err == nil || string(got) != "half a tar" {
		t.Errorf("ReadAll = %q, %v; want an error, for the stream was cut", got, err)
	}
}

func TestClientExec(t *testing.T) {
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Upgrade") != ExecUpgrade || string(body) != `{"argv":["true"],"stdin":true}` {
			t.Errorf("request: Upgrade %q, body %s", r.Header.Get("Upgrade"), body)
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		// The first frame comes in the same segment as the answer.
		answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + ExecUpgrade + "\r\n\r\n" + string(
			frame(FrameStdout, "early"),
		)
		io.WriteString(conn, answer)
		frames := NewFrameConn(conn, buffered.Reader)
		if in, err := frames.Read(); err != nil || string(in.Payload) != "input" {
			t.Errorf("daemon read %q, %v", in.Payload, err)
		}
		frames.WriteJSON(FrameExit, ExecExit{Code: 3})
	})
	conn, err := client.Exec(t.Context(), Exec{Machine: "web", Argv: []string{"true"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Write(FrameStdin, []byte("input")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		f, err := conn.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(f.Payload))
	}
	if diff := cmp.Diff([]string{"early", `{"code":3}`}, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestClientExecRefused(t *testing.T) {
	_, err := serve(t, say(409, `{"code":"conflict","message":"machine web is stopped"}`)).Exec(t.Context(), Exec{Machine: "web"})
	if CodeOf(err) != CodeConflict || !strings.Contains(err.Error(), "machine web is stopped") {
		t.Errorf("Exec = %v, want the daemon's conflict", err)
	}
}

func TestClientExecCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then the server sees that the client left
		cancel()
		<-r.Context().Done()
	})
	if _, err := client.Exec(ctx, Exec{Machine: "web"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Exec = %v, want canceled", err)
	}
}
