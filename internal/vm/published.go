package vm

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"banger/api"
	"banger/internal/forward"
	"banger/internal/guest"
)

// published is one forward of a VM that runs: a port of the host that is open, or why it is not.
type published struct {
	api.Forward
	open *forward.Forward // nil when err is not
	err  error
}

func (p *published) close() error {
	if p.open == nil {
		return nil
	}
	return p.open.Close()
}

// sameHostPort reports whether two forwards are of one port of the host.
func sameHostPort(a, b api.Forward) bool {
	return a.Protocol == b.Protocol && a.Host == b.Host && a.HostPort == b.HostPort
}

// forwards are the ports of the host that lead into VMs. It is safe for concurrent use.
type forwards struct {
	log *slog.Logger

	mu   sync.Mutex              // never held over I/O
	byVM map[string][]*published // by VM id: of VMs that run
}

func newForwards(log *slog.Logger) *forwards {
	return &forwards{log: log, byVM: map[string][]*published{}}
}

// publish opens one forward of a VM. One that cannot be opened is kept with the reason.
func (fs *forwards) publish(id string, dir Dir, f api.Forward) *published {
	p := &published{Forward: f}
	vsock := guest.OpenVsock(dir.VsockSocket(), guest.StreamPort)
	dial := func(ctx context.Context) (forward.Conn, error) {
		conn, err := guest.Connect(ctx, vsock, string(f.Protocol), f.GuestPort)
		if err != nil {
			return nil, err // not a Conn that is a nil pointer
		}
		return conn, nil
	}
	p.open, p.err = forward.Listen(f, dial, fs.log.With("vm", id))
	fs.mu.Lock()
	defer fs.mu.Unlock()
	others := slices.DeleteFunc(fs.byVM[id], func(known *published) bool {
		return sameHostPort(known.Forward, f)
	})
	fs.byVM[id] = append(others, p)
	return p
}

// publishAll opens all forwards of a VM, or tells which could not be opened.
func (fs *forwards) publishAll(id string, dir Dir, all []api.Forward) error {
	var errs []error
	for _, f := range all {
		if p := fs.publish(id, dir, f); p.err != nil {
			errs = append(errs, p.err)
		}
	}
	return errors.Join(errs...)
}

// withdraw closes one forward of a VM and ends its connections. Idempotent.
func (fs *forwards) withdraw(id string, f api.Forward) error {
	return closeEach(fs.take(id, func(p *published) bool { return sameHostPort(p.Forward, f) }))
}

// withdrawAll closes all forwards of a VM. Idempotent.
func (fs *forwards) withdrawAll(id string) error {
	return closeEach(fs.take(id, func(*published) bool { return true }))
}

// align opens those of a VM's forwards that are not open, and closes what else is.
func (fs *forwards) align(id string, dir Dir, all []api.Forward) error {
	errs := []error{closeEach(fs.take(id, func(p *published) bool {
		return !slices.ContainsFunc(all, func(f api.Forward) bool { return sameHostPort(f, p.Forward) })
	}))}
	for _, f := range all {
		if !fs.works(id, f) {
			errs = append(errs, fs.publish(id, dir, f).err)
		}
	}
	return errors.Join(errs...)
}

// take removes a VM's forwards that match, and returns them.
func (fs *forwards) take(id string, match func(*published) bool) (taken []*published) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var rest []*published
	for _, p := range fs.byVM[id] {
		if match(p) {
			taken = append(taken, p)
		} else {
			rest = append(rest, p)
		}
	}
	fs.byVM[id] = rest
	if len(rest) == 0 {
		delete(fs.byVM, id)
	}
	return taken
}

func closeEach(all []*published) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// works reports whether a forward of a VM is open.
func (fs *forwards) works(id string, f api.Forward) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return slices.ContainsFunc(fs.byVM[id], func(p *published) bool {
		return sameHostPort(p.Forward, f) && p.err == nil
	})
}

// all lists the forwards of all VMs that run.
func (fs *forwards) all() (all []*published) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, some := range fs.byVM {
		all = append(all, some...)
	}
	return all
}

// stopListening gives the host's ports to another daemon. Connections that stand go on until close.
func (fs *forwards) stopListening() {
	for _, p := range fs.all() {
		if p.open == nil {
			continue
		}
		if err := p.open.StopListening(); err != nil {
			fs.log.Error("hand over a forward", "forward", p.String(), "error", err)
		}
	}
}

// wait returns when no connection is left.
func (fs *forwards) wait() {
	for _, p := range fs.all() {
		if p.open != nil {
			p.open.Wait()
		}
	}
}

// close ends all forwards and their connections. Idempotent.
func (fs *forwards) close() error {
	fs.mu.Lock()
	open := fs.byVM
	fs.byVM = map[string][]*published{}
	fs.mu.Unlock()
	var errs []error
	for _, some := range open {
		errs = append(errs, closeEach(some))
	}
	return errors.Join(errs...)
}

// describe returns a VM's forwards with what does not work now.
func (fs *forwards) describe(id string, recorded []api.Forward) []api.Forward {
	if len(recorded) == 0 {
		return nil
	}
	shown := slices.Clone(recorded)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i := range shown {
		for _, p := range fs.byVM[id] {
			if p.err != nil && sameHostPort(p.Forward, shown[i]) {
				shown[i].Error = p.err.Error()
			}
		}
	}
	return shown
}
