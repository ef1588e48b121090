package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"banger/api"
	homefolder "banger/internal/home"
	"banger/internal/network"
)

// keepFlag makes this test binary a network's keeper; the home follows it.
const keepFlag = "--fake-keep"

// refusals is a file in the network's folder with requests that the fake keeper refuses, one a
// line: "PUT /ports".
const refusals = "refuse"

// fakeKeeper is a network's keeper without a network: ports that are there because it says so. As
// the real one it outlives the daemon, and ends when it is told to, or a while after the test.
type fakeKeeper struct {
	dir   network.Dir
	lock  *os.File
	mu    sync.Mutex
	ports []network.Endpoint
}

func keepMain(dir homefolder.Dir) {
	k := &fakeKeeper{dir: network.HomeDir(dir)}
	ready := os.NewFile(network.ReadyFD, "ready")
	listener, err := k.listen()
	_ = network.TellReady(ready, err)
	if err != nil {
		os.Exit(1)
	}
	time.AfterFunc(time.Minute, func() { os.Exit(5) })
	ready.Close()
	_ = http.Serve(listener, k)
}

func (k *fakeKeeper) listen() (net.Listener, error) {
	lock, err := tryLock(k.dir.Lock())
	if err == nil && lock == nil {
		err = network.ErrServed
	}
	if err != nil {
		return nil, err
	}
	k.lock = lock
	os.Remove(k.dir.ControlSocket())
	k.remember() // also says that there is a network
	return net.Listen("unix", k.dir.ControlSocket())
}

// remember is what the real keeper's holder does: a keeper that is killed leaves the ports to the
// next.
func (k *fakeKeeper) remember() {
	path := k.dir.HolderSocket()
	if k.ports == nil {
		data, _ := os.ReadFile(path)
		_ = json.Unmarshal(data, &k.ports)
	}
	data, _ := json.Marshal(k.ports)
	_ = os.WriteFile(path, data, 0o600)
}

func (k *fakeKeeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	refused, _ := os.ReadFile(filepath.Join(string(k.dir), refusals))
	if slices.Contains(strings.Split(string(refused), "\n"), r.Method+" "+r.URL.Path) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"refused"}`)
		return
	}
	id, of := strings.CutPrefix(strings.TrimSuffix(r.URL.Path, "/policy"), "/ports/")
	at := slices.IndexFunc(k.ports, func(p network.Endpoint) bool { return p.ID == id })
	var reply any = struct{}{}
	switch {
	case r.URL.Path == "/status":
		reply = network.Status{HolderPID: os.Getpid(), Endpoints: k.ports, MTU: 1500, Uplink: network.UplinkUp}
	case r.URL.Path == "/stop":
		os.Remove(k.dir.HolderSocket())
		w.Header().Set("Content-Length", "2") // whole before the end
		fmt.Fprint(w, "{}")
		_ = http.NewResponseController(w).Flush()
		os.Exit(0)
	case r.URL.Path == "/ports":
		var p network.Endpoint
		_ = json.NewDecoder(r.Body).Decode(&p)
		k.ports = append(slices.DeleteFunc(k.ports, func(known network.Endpoint) bool { return known.ID == p.ID }), p)
		reply = network.Tap{Name: "tap" + p.ID, MTU: 1500}
	case of && r.Method == http.MethodDelete:
		k.ports = slices.DeleteFunc(k.ports, func(p network.Endpoint) bool { return p.ID == id })
	case of && at < 0:
		w.WriteHeader(http.StatusNotFound)
		reply = map[string]string{"error": "no such port"}
	case of:
		var p network.Policy
		_ = json.NewDecoder(r.Body).Decode(&p)
		k.ports[at].Policy = p
	}
	if k.ports == nil {
		k.ports = []network.Endpoint{}
	}
	k.remember()
	_ = json.NewEncoder(w).Encode(reply)
}

// withNetwork gives the home a network with the fake keeper.
func (h *home) withNetwork() *home {
	h.t.Helper()
	bin := filepath.Join(h.dir, "bin")
	err := errors.Join(os.MkdirAll(bin, 0o700), os.MkdirAll(filepath.Join(h.dir, "net"), 0o700))
	if err == nil { // there are no namespaces to enter
		script := "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n"
		err = os.WriteFile(filepath.Join(bin, "nsenter"), []byte(script), 0o700)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	h.options.Config.Network = api.NetworkUser
	h.t.Cleanup(func() { _ = h.options.Network.Stop(context.Background()) })
	return h
}

// refuse has the keeper refuse these requests from now on.
func (h *home) refuse(requests ...string) {
	h.t.Helper()
	h.write(filepath.Join(h.dir, "net", refusals), strings.Join(requests, "\n"))
}

// networkPorts are the ports that the network has, by VM id; nil when there is no network.
func (h *home) networkPorts() map[string]network.Endpoint {
	h.t.Helper()
	running, err := h.options.Network.Running()
	if err != nil {
		h.t.Fatal(err)
	}
	if !running {
		return nil
	}
	status, err := h.options.Network.Status(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	ports := map[string]network.Endpoint{}
	for _, p := range status.Endpoints {
		ports[p.ID] = p
	}
	return ports
}
