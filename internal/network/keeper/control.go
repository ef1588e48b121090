package keeper

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"

	"banger/internal/network"
	"banger/internal/network/nft"
	"banger/internal/network/plan"
)

// maxPorts is how many VMs one network carries; the kernel's bridge ends at 1023 ports.
const maxPorts = 1000

// maxRequestBytes bounds a request's body; the largest is a port.
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

// routes is the control API: JSON both ways, 404 for a port that is not there, 400 for what the request can mend.
func (k *keeper) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, k.status(), nil) })
	mux.HandleFunc("PUT /ports", func(w http.ResponseWriter, r *http.Request) {
		var p network.Port
		if err := decode(w, r, &p); err != nil {
			reply(w, nil, err)
			return
		}
		tap, err := k.attach(p)
		k.log.InfoContext(r.Context(), "attach", "id", p.ID, "name", p.Name, "address", p.Address, "err", err)
		reply(w, tap, err)
	})
	mux.HandleFunc("DELETE /ports/{id}", func(w http.ResponseWriter, r *http.Request) {
		err := k.detach(r.PathValue("id"))
		k.log.InfoContext(r.Context(), "detach", "id", r.PathValue("id"), "err", err)
		reply(w, nil, err)
	})
	mux.HandleFunc("PUT /ports/{id}/policy", func(w http.ResponseWriter, r *http.Request) {
		var p network.Policy
		if err := decode(w, r, &p); err != nil {
			reply(w, nil, err)
			return
		}
		err := k.setPolicy(r.PathValue("id"), p)
		k.log.InfoContext(r.Context(), "set policy", "id", r.PathValue("id"), "nat", p.NAT, "isolated", p.Isolated, "host services", p.HostServices, "err", err)
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
	k.mu.Lock()
	defer k.mu.Unlock()
	return network.Status{
		HolderPID: k.holder.pid, Rootless: k.config.Rootless, Subnet: k.config.Subnet, Gateway: network.Gateway(k.config.Subnet),
		MTU: k.state.MTU, Uplink: k.uplink.State(), IPv6: k.state.IPv6, Uplink6: k.uplink.State6(), Relay: k.relay != nil, Ports: slices.Clone(k.state.Ports),
	}
}

// attach makes a port, or changes the policy and the name of the one with its id.
func (k *keeper) attach(p network.Port) (network.Tap, error) {
	if err := p.Check(k.config.Subnet); err != nil {
		return network.Tap{}, err
	}
	err := k.change(func(s *plan.State) error {
		at := -1
		for i, other := range s.Ports {
			switch {
			case other.ID == p.ID && (other.Address != p.Address || other.MAC != p.MAC):
				return fmt.Errorf("port %s has address %s and MAC %s already; detach it first", p.ID, other.Address, other.MAC)
			case other.ID == p.ID:
				at = i
			case other.Address == p.Address, other.MAC == p.MAC, other.Name == p.Name:
				return fmt.Errorf("port %s has the address, the MAC or the name already", other.ID)
			}
		}
		if at >= 0 {
			s.Ports[at] = p
			return nil
		}
		if len(s.Ports) >= maxPorts {
			return fmt.Errorf("the network has %d VMs, which is the limit", maxPorts)
		}
		s.Ports = append(s.Ports, p)
		return nil
	})
	return k.tap(p), err
}

func (k *keeper) tap(p network.Port) network.Tap {
	k.mu.Lock()
	defer k.mu.Unlock()
	tap := network.Tap{Name: p.TapName(), MTU: k.state.MTU}
	if k.state.IPv6 {
		tap.Address6 = netip.PrefixFrom(network.Address6(p.Address), network.Subnet6(k.state.Subnet).Bits())
	}
	if k.state.Outside6 {
		tap.Gateway6 = network.Address6(network.Gateway(k.state.Subnet))
	}
	return tap
}

func (k *keeper) detach(id string) error {
	return k.change(func(s *plan.State) error {
		s.Ports = slices.DeleteFunc(s.Ports, func(p network.Port) bool { return p.ID == id })
		return nil
	})
}

func (k *keeper) setPolicy(id string, policy network.Policy) error {
	if err := network.CheckHostServices(policy.HostServices); err != nil {
		return err
	}
	return k.change(func(s *plan.State) error {
		i := slices.IndexFunc(s.Ports, func(p network.Port) bool { return p.ID == id })
		if i < 0 {
			return fmt.Errorf("set policy of %.140q: %w", id, network.ErrNotFound)
		}
		s.Ports[i].Policy = policy
		return nil
	})
}

func sortPorts(ports []network.Port) {
	slices.SortFunc(ports, func(a, b network.Port) int { return cmp.Compare(a.ID, b.ID) })
}

// subnets are those whose addresses VMs have.
func (k *keeper) subnets() (all []netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range k.state.Families() {
		all = append(all, f.Net(k.state.Subnet))
	}
	return all
}

// lookup and reverse are what the DNS server knows of the VMs.
func (k *keeper) lookup(name string) (addresses []netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.state.Ports, func(p network.Port) bool { return strings.EqualFold(p.Name, name) })
	if i < 0 {
		return nil
	}
	for _, f := range k.state.Families() {
		addresses = append(addresses, f.Of(k.state.Ports[i].Address))
	}
	return addresses
}

func (k *keeper) reverse(a netip.Addr) (string, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.state.Ports, func(p network.Port) bool { return nft.FamilyOf(a).Of(p.Address) == a })
	if i < 0 {
		return "", false
	}
	return k.state.Ports[i].Name, true
}
