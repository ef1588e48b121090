package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"banger/internal/network"
)

// maxRequestBytes bounds a request's body; the largest is an endpoint.
const maxRequestBytes = 64 << 10

// listenControl opens the control socket in place of a dead keeper's; the lock is held.
func listenControl(d network.Dir) (net.Listener, error) {
	if err := os.Remove(d.ControlSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove dead control socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.ControlSocket(), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for control: %w", err)
	}
	// Until the mode is set the folder's, 0700, guards the socket.
	if err := os.Chmod(d.ControlSocket(), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect control socket: %w", err), listener.Close())
	}
	return listener, nil
}

// routes is the control API: JSON both ways, 404 for an endpoint that is not there, 400 for what
// the request can mend.
func (k *keeper) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, k.status(), nil) })
	mux.HandleFunc("PUT /ports", func(w http.ResponseWriter, r *http.Request) {
		var p network.Endpoint
		if err := decode(w, r, &p); err != nil {
			reply(w, nil, err)
			return
		}
		var tap network.Tap
		err := k.change(r.Context(), attach(p))
		if err == nil {
			tap = k.now.Load().tap(p)
		}
		k.log.InfoContext(r.Context(), "attach", "id", p.ID, "name", p.Name, "address", p.Address, "err", err)
		reply(w, tap, err)
	})
	mux.HandleFunc("DELETE /ports/{id}", func(w http.ResponseWriter, r *http.Request) {
		err := k.change(r.Context(), detach(r.PathValue("id")))
		k.log.InfoContext(r.Context(), "detach", "id", r.PathValue("id"), "err", err)
		reply(w, nil, err)
	})
	mux.HandleFunc("PUT /ports/{id}/policy", func(w http.ResponseWriter, r *http.Request) {
		var p network.Policy
		if err := decode(w, r, &p); err != nil {
			reply(w, nil, err)
			return
		}
		err := k.change(r.Context(), setPolicy(r.PathValue("id"), p))
		k.log.InfoContext(r.Context(), "set policy", "id", r.PathValue("id"), "nat", p.NAT, "isolated", p.Isolated,
			"host services", p.HostServices, "err", err)
		reply(w, nil, err)
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		k.log.InfoContext(r.Context(), "stop")
		reply(w, nil, nil)
		k.stop(errStopped)
	})
	return mux
}

func decode(w http.ResponseWriter, r *http.Request, into any) error {
	in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes))
	in.DisallowUnknownFields()
	if err := in.Decode(into); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	return nil
}

func reply(w http.ResponseWriter, body any, err error) {
	status := http.StatusOK
	if err != nil {
		status, body = http.StatusBadRequest, network.Failure{Error: err.Error()}
	}
	if errors.Is(err, network.ErrNotFound) {
		status = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone needs no answer
}

func (k *keeper) status() network.Status {
	now := k.now.Load()
	return network.Status{
		HolderPID: k.inside.PID, Rootless: k.config.Rootless, Subnet: k.config.Subnet,
		Gateway: network.Gateway(k.config.Subnet), MTU: now.MTU, Uplink: k.uplink.State(), IPv6: now.IPv6,
		Uplink6: k.uplink.State6(), Relay: k.relay != nil, Endpoints: now.Endpoints,
	}
}
