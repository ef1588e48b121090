package vm

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"

	"banger/api"
	"banger/internal/network"
	"banger/internal/store"
)

// resource is one thing that a VM has on the host. give is idempotent and works from the record and
// the folder alone, because it also runs in teardown, where the thing was taken in another daemon's
// life or not at all.
type resource interface {
	name() string // as an error shows it: "network port"
	uses() bool   // reports whether those that are taken before it must stay while it is there
	give(context.Context) error
}

// takable is a resource that a flow takes.
type takable interface {
	resource
	take(context.Context) error
}

// machine is one VM as an operation works on it: its record as it was read, and all that it may
// have on the host. A new kind of resource is named here, and every teardown knows it.
type machine struct {
	rec *store.VM
	dir Dir

	// What it is made of.
	record  *record
	hostKey *knownHost
	folder  *folder
	// What it has while it runs.
	lock  *lock
	port  *networkPort
	ports *hostPorts
	vmm   *vmm
}

func (m *Manager) machine(rec store.VM) *machine {
	x := &machine{rec: &rec, dir: m.Dir(rec.ID)}
	x.record = &record{rec: x.rec, store: m.store, lease: m.leaseAddress}
	x.hostKey = &knownHost{rec: x.rec, keys: m.hostKeys}
	x.folder = &folder{x.dir}
	x.lock = &lock{rec: x.rec, dir: x.dir}
	x.port = &networkPort{rec: x.rec, lan: m.lan}
	x.ports = &hostPorts{rec: x.rec, dir: x.dir, forwards: m.forwards}
	x.vmm = &vmm{rec: x.rec, dir: x.dir, store: m.store, known: m.vmms, lock: x.lock, port: x.port}
	return x
}

// made are the resources that a VM is made of, and run those it has besides while it runs, in the
// order in which they are taken: each may need those before it.
func (x *machine) made() []resource { return []resource{x.record, x.hostKey, x.folder} }
func (x *machine) run() []resource  { return []resource{x.lock, x.port, x.ports, x.vmm} }

// taking is the step that takes a resource.
func taking(name string, r takable) step {
	return step{name: name, do: r.take, undo: r.give, uses: r.uses()}
}

// giving are the steps that give resources back, the last one first. The flow ends at one that
// cannot be given back: it may still be using those before it. Once begun each is finished,
// whatever becomes of the flow's caller.
func giving(resources []resource) (steps []step) {
	for _, r := range slices.Backward(resources) {
		steps = append(steps, step{name: "give back " + r.name(), do: func(ctx context.Context) error {
			ctx, cancel := undoContext(ctx)
			defer cancel()
			return r.give(ctx)
		}})
	}
	return steps
}

// record is the VM's record. It is there before all else and goes last, so that what is left of a
// VM is always found.
type record struct {
	rec   *store.VM
	store *store.Store
	lease func(taken map[netip.Addr]bool) (netip.Addr, error)
}

func (r *record) name() string { return "record" }
func (r *record) uses() bool   { return false }

// take inserts the record. A made-up name that is taken gets digits of the id, which are the VM's
// own.
func (r *record) take(ctx context.Context) error {
	r.rec.CreatedAt = time.Now()
	if r.rec.Name != "" {
		return r.store.InsertVM(ctx, r.rec, r.lease)
	}
	name := madeUpName()
	if r.rec.Builds != "" {
		name = buildName(r.rec.Builds)
	}
	var err error
	for _, candidate := range []string{name, name + "-" + r.rec.ID[:4], name + "-" + r.rec.ID} {
		r.rec.Name = candidate
		if err = r.store.InsertVM(ctx, r.rec, r.lease); api.CodeOf(err) != api.CodeConflict {
			return err
		}
	}
	return err
}

func (r *record) give(ctx context.Context) error { return r.store.DeleteVM(ctx, r.rec.ID) }

func (m *Manager) leaseAddress(taken map[netip.Addr]bool) (netip.Addr, error) {
	address, err := network.NextAddress(m.config.Subnet, taken)
	if err != nil {
		return address, api.Errorf(api.CodeUnavailable, "%w", err).
			WithRemedy(api.OpStatus.Remedy(api.None{}, "remove machines, or set a larger subnet"))
	}
	return address, nil
}

// knownHost is the VM's line in the file of known hosts. The first ssh connection takes it, not a
// flow.
type knownHost struct {
	rec  *store.VM
	keys *hostKeys
}

func (k *knownHost) name() string                   { return "known host" }
func (k *knownHost) uses() bool                     { return false }
func (k *knownHost) give(ctx context.Context) error { return k.keys.forget(ctx, k.rec.ID) }

// folder is all that belongs to the VM alone. Its record tells whose it is.
type folder struct{ dir Dir }

func (f *folder) name() string               { return "folder" }
func (f *folder) uses() bool                 { return true }
func (f *folder) take(context.Context) error { return os.MkdirAll(string(f.dir), 0o700) }
func (f *folder) give(context.Context) error { return os.RemoveAll(string(f.dir)) }

// networkPort is the VM's place on the network: a tap and its rules. A VM without a network has
// none.
type networkPort struct {
	rec *store.VM
	lan *lan

	tap   network.Tap                  // as take found it
	enter func(argv []string) []string // runs the VMM where its tap is; nil without a network
}

func (p *networkPort) name() string { return "network port" }
func (p *networkPort) uses() bool   { return false }

func (p *networkPort) take(ctx context.Context) (err error) {
	if p.rec.Network == api.NetworkNone {
		return nil
	}
	p.tap, p.enter, err = p.lan.join(ctx, *p.rec)
	return err
}

func (p *networkPort) give(ctx context.Context) error {
	if p.rec.Network == api.NetworkNone {
		return nil
	}
	return p.lan.leave(ctx, p.rec.ID)
}

// hostPorts are the ports of the host that lead into the VM.
type hostPorts struct {
	rec      *store.VM
	dir      Dir
	forwards *forwards
}

func (p *hostPorts) name() string { return "forwards" }
func (p *hostPorts) uses() bool   { return false }

// take opens the host's ports before there is a VMM: one that is taken is told before anything
// boots.
func (p *hostPorts) take(context.Context) error {
	return p.forwards.publishAll(p.rec.ID, p.dir, p.rec.Forwards)
}

func (p *hostPorts) give(context.Context) error { return p.forwards.withdrawAll(p.rec.ID) }

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
