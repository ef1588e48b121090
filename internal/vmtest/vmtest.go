// Package vmtest gives tests machines without a kernel: a VMM that only answers Firecracker's
// calls, whose guest is this repository's agent running the host's own programs, and an image and a
// kernel of nonsense. A test's binary is the VMM itself: its TestMain calls Main first.
//
// A guest changes nothing of the host: of the agent only Exec is the real one.
package vmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"banger/internal/guestd/agent"
	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

// Variable makes a test's binary a VMM, when it is set and the binary is started with Firecracker's
// flags. Its value says how the VMM behaves.
const Variable = "BANGER_VMTEST"

// Behaviours, joined with commas.
const (
	Well   = "well"
	Mute   = "mute"   // the guest's agent never answers
	Boots  = "boots"  // the guest's init never has booted
	Refuse = "refuse" // the kernel is refused
)

// maxLife ends a VMM that its test has forgotten.
const maxLife = time.Minute

// Main is a VMM, and does not return, in a process that was started as one.
func Main() {
	how := os.Getenv(Variable)
	if how == "" || len(os.Args) < 3 || os.Args[1] != "--api-sock" {
		return
	}
	for fd := 3; fd < 16; fd++ { // the lock is the VMM's alone: what a guest runs may outlive it for moments
		unix.CloseOnExec(fd)
	}
	listener, err := net.Listen("unix", os.Args[2]) //nolint:noctx // binding a unix socket does not block
	if err != nil {
		fmt.Println(err)
		os.Exit(4)
	}
	time.AfterFunc(maxLife, func() { os.Exit(5) })
	_ = http.Serve(listener, &vmm{how: how})
	os.Exit(6)
}

// vmm answers Firecracker's API.
type vmm struct{ how, vsock, output string }

func (v *vmm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		UDSPath       string `json:"uds_path"`
		SerialOutPath string `json:"serial_out_path"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body) // of other calls nothing is needed
	switch {
	case r.Method == http.MethodGet:
		io.WriteString(w, `{"app_name":"vmtest","state":"Not started"}`) //nolint:errcheck // the client is gone
		return
	case r.URL.Path == "/vsock":
		v.vsock = body.UDSPath
	case r.URL.Path == "/serial":
		v.output = body.SerialOutPath
	case r.URL.Path == "/boot-source" && strings.Contains(v.how, Refuse):
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"fault_message":"the kernel is no ELF file"}`) //nolint:errcheck // as above
		return
	case r.URL.Path == "/actions":
		_ = os.WriteFile(v.output, []byte("Linux version 6.12\n"), 0o600)
		v.startGuest()
	}
	w.WriteHeader(http.StatusNoContent)
}

func (v *vmm) startGuest() {
	listener, err := net.Listen("unix", v.vsock) //nolint:noctx // binding a unix socket does not block
	if err != nil {
		fmt.Println(err)
		os.Exit(8)
	}
	real := agent.New(agent.Config{Build: "vmtest", Root: "/", Log: slog.New(slog.DiscardHandler)})
	_, handler := agentv1connect.NewAgentHandler(&guest{how: v.how, real: real})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(agentv1.ProtocolHeader, fmt.Sprint(agentv1.Protocol))
		handler.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(vsockListener{listener, strings.Contains(v.how, Mute)}) }()
}

// vsockListener takes the CONNECT line of Firecracker's vsock socket.
type vsockListener struct {
	net.Listener
	mute bool
}

func (l vsockListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || l.mute ||
			!strings.HasPrefix(line, "CONNECT ") {
			conn.Close() // as Firecracker does when nothing listens in the guest
			continue
		}
		fmt.Fprint(conn, "OK 1073741824\n")
		return conn, nil
	}
}

// guest is an agent that takes everything and does nothing, but for running commands.
type guest struct {
	agentv1connect.UnimplementedAgentHandler
	how  string
	real *agent.Server
}

func (g *guest) Health(context.Context, *agentv1.HealthRequest) (*agentv1.HealthResponse, error) {
	return &agentv1.HealthResponse{}, nil
}

func (g *guest) WaitBooted(ctx context.Context, _ *agentv1.WaitBootedRequest) (*agentv1.WaitBootedResponse, error) {
	if strings.Contains(g.how, Boots) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &agentv1.WaitBootedResponse{}, nil
}

func (g *guest) SetTime(context.Context, *agentv1.SetTimeRequest) (*agentv1.SetTimeResponse, error) {
	return &agentv1.SetTimeResponse{}, nil
}

func (g *guest) AddEntropy(context.Context, *agentv1.AddEntropyRequest) (*agentv1.AddEntropyResponse, error) {
	return &agentv1.AddEntropyResponse{}, nil
}

func (g *guest) WriteFiles(
	_ context.Context,
	stream *connect.ClientStream[agentv1.WriteFilesRequest],
) (*agentv1.WriteFilesResponse, error) {
	for stream.Receive() {
		continue // it has no files
	}
	return &agentv1.WriteFilesResponse{}, stream.Err()
}

func (g *guest) Exec(ctx context.Context, stream *connect.BidiStream[agentv1.ExecRequest, agentv1.ExecResponse]) error {
	return g.real.Exec(ctx, stream)
}

func (g *guest) Control(ctx context.Context, in *agentv1.ControlRequest) (*agentv1.ControlResponse, error) {
	return g.real.Control(ctx, in)
}

func (g *guest) Shutdown(context.Context, *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	time.AfterFunc(10*time.Millisecond, func() { os.Exit(0) }) // behind the answer
	return &agentv1.ShutdownResponse{}, nil
}
