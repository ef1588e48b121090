package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	homefolder "banger/internal/home"
	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

// fakeVariable makes this test binary a VMM when it is started with Firecracker's flags; its value
// says how it behaves.
const fakeVariable = "BANGER_TEST_VMM"

// pidsFolder, in the home, has a file for each VMM that was started, named by its pid.
const pidsFolder = "pids"

// Behaviours of the fake VMM, joined with commas.
const (
	fakeWell        = "well"
	fakeDies        = "dies"          // before it listens
	fakeRefuses     = "refuses"       // the kernel
	fakeDiesAtStart = "dies-at-start" // in InstanceStart, after the guest said something
	fakeMute        = "mute"          // the guest's agent never answers
	fakeStubborn    = "stubborn"      // the guest does not shut down
)

func TestMain(m *testing.M) {
	if how := os.Getenv(fakeVariable); how != "" && len(os.Args) > 1 && os.Args[1] == "--api-sock" {
		fakeMain(how, os.Args[2])
	}
	if len(os.Args) > 2 && os.Args[1] == keepFlag {
		keepMain(homefolder.Dir(os.Args[2]))
	}
	if len(os.Args) > 2 && os.Args[1] == doomedFlag {
		doomedMain(os.Args[2:])
	}
	goleak.VerifyTestMain(m)
}

// fakeMain is a VMM that holds the inherited lock for its life, takes Firecracker's calls, writes
// each into calls.log of its folder, and whose guest is an agent on the vsock socket. It dies with
// the test's binary at the latest.
func fakeMain(how, socket string) {
	pids := filepath.Join(filepath.Dir(socket), "..", "..", pidsFolder)
	if err := os.WriteFile(filepath.Join(pids, strconv.Itoa(os.Getpid())), nil, 0o600); err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	if strings.Contains(how, fakeDies) && !strings.Contains(how, fakeDiesAtStart) {
		fmt.Println("no /dev/kvm here")
		os.Exit(3)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Println(err)
		os.Exit(4)
	}
	time.AfterFunc(time.Minute, func() { os.Exit(5) }) // never outlives a test run for long
	vmm := &fakeVMM{how: how, dir: filepath.Dir(socket)}
	_ = http.Serve(listener, vmm)
	os.Exit(6)
}

type fakeVMM struct {
	how, dir      string
	vsock, output string
}

func (f *fakeVMM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Method == http.MethodGet {
		fmt.Fprint(w, `{"app_name":"fake","state":"Not started"}`)
		return
	}
	calls, err := os.OpenFile(filepath.Join(f.dir, "calls.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintf(calls, "%s %s %s\n", r.Method, r.URL.Path, body)
		calls.Close()
	}
	switch r.URL.Path {
	case "/vsock":
		var v struct {
			UDSPath string `json:"uds_path"`
		}
		_ = json.Unmarshal(body, &v)
		f.vsock = v.UDSPath
	case "/serial":
		var s struct {
			Path string `json:"serial_out_path"`
		}
		_ = json.Unmarshal(body, &s)
		f.output = s.Path
	case "/boot-source":
		if strings.Contains(f.how, fakeRefuses) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"fault_message":"the kernel is no ELF file"}`)
			return
		}
	case "/actions":
		_ = os.WriteFile(f.output, []byte("Linux version 6.12\n"), 0o600)
		if strings.Contains(f.how, fakeDiesAtStart) {
			os.Exit(7)
		}
		f.startGuest()
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *fakeVMM) startGuest() {
	listener, err := net.Listen("unix", f.vsock)
	if err != nil {
		fmt.Println(err)
		os.Exit(8)
	}
	mux := http.NewServeMux()
	mux.Handle(agentv1connect.NewAgentHandler(&fakeAgent{how: f.how}))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(agentv1.ProtocolHeader, fmt.Sprint(agentv1.Protocol))
		mux.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(vsockListener{listener, strings.Contains(f.how, fakeMute)}) }()
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
		if l.mute {
			conn.Close() // as Firecracker does when nothing listens in the guest
			continue
		}
		if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || !strings.HasPrefix(line, "CONNECT ") {
			conn.Close()
			continue
		}
		fmt.Fprint(conn, "OK 1073741824\n")
		return conn, nil
	}
}

type fakeAgent struct {
	agentv1connect.UnimplementedAgentHandler
	how string
}

func (a *fakeAgent) Health(context.Context, *agentv1.HealthRequest) (*agentv1.HealthResponse, error) {
	return &agentv1.HealthResponse{}, nil
}

func (a *fakeAgent) SetTime(context.Context, *agentv1.SetTimeRequest) (*agentv1.SetTimeResponse, error) {
	return &agentv1.SetTimeResponse{}, nil
}

func (a *fakeAgent) AddEntropy(context.Context, *agentv1.AddEntropyRequest) (*agentv1.AddEntropyResponse, error) {
	return &agentv1.AddEntropyResponse{}, nil
}

func (a *fakeAgent) WriteFiles(_ context.Context, stream *connect.ClientStream[agentv1.WriteFilesRequest]) (*agentv1.WriteFilesResponse, error) {
	for stream.Receive() {
		continue // it has no files
	}
	return &agentv1.WriteFilesResponse{}, stream.Err()
}

func (a *fakeAgent) Shutdown(context.Context, *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	if !strings.Contains(a.how, fakeStubborn) {
		time.AfterFunc(10*time.Millisecond, func() { os.Exit(0) }) // behind the answer
	}
	return &agentv1.ShutdownResponse{}, nil
}
