// Package control is what the operations of package api do, without any transport: a method each,
// from the operation's input to its answer. The HTTP binding is one front end of it; every other
// one stands on it too.
//
// It joins what the packages below know of one another: the image's defaults with an exec, a lease
// with a run. Long work reports its progress through the context (package progress).
package control

import (
	"context"
	"log/slog"
	"os"
	"time"

	"banger/api"
	"banger/internal/build"
	"banger/internal/builder"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/hostinfo"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/store"
	"banger/internal/vm"
)

// Options is what a Control works with. All fields are needed.
type Options struct {
	Config   config.Config
	Settings []api.Setting // what Config was made of
	Tools    host.Tools
	Log      *slog.Logger
	Store    *store.Store
	Images   *image.Catalog
	Kernels  *kernel.Catalog
	VMs      *vm.Manager
	Builder  *builder.Builder
	// Stop ends the process; it returns when another one can take the home folder.
	Stop func(context.Context, api.StopDaemon) error
	// RemoveBySuccessor removes a machine that is another daemon's by now.
	RemoveBySuccessor func(ctx context.Context, id string) error
}

// Control does the operations of one home folder. It is safe for concurrent use.
type Control struct {
	// Gate counts the changes under way. Whoever calls a method of an operation that Mutates enters
	// it first.
	Gate *Gate

	o     Options
	began time.Time
}

// New returns a Control.
func New(o Options) *Control { return &Control{Gate: NewGate(), o: o, began: time.Now()} }

// Status says what the daemon is and does.
func (c *Control) Status(ctx context.Context, _ api.None) (api.DaemonStatus, error) {
	id, err := build.ID()
	if err != nil {
		return api.DaemonStatus{}, err
	}
	all, running, err := c.o.Store.CountVMs(ctx)
	if err != nil {
		return api.DaemonStatus{}, err
	}
	rss, err := hostinfo.ProcessRSSBytes(os.Getpid())
	if err != nil {
		return api.DaemonStatus{}, err
	}
	draining, left := c.Gate.State()
	return api.DaemonStatus{
		Version: build.Version(), Build: id, API: api.Version, PID: os.Getpid(), Home: string(c.o.Config.Home),
		Socket:   c.o.Config.Home.Socket(),
		UptimeMS: time.Since(c.began).Milliseconds(), Machines: all, RunningMachines: running, RSSBytes: rss,
		Settings: config.OfHome(c.o.Settings), Draining: draining, Left: left,
	}, nil
}

// StopDaemon ends the process.
func (c *Control) StopDaemon(ctx context.Context, in api.StopDaemon) (api.None, error) {
	if in.PurgeNetwork {
		if err := c.o.VMs.PurgeNetwork(ctx); err != nil {
			return api.None{}, err
		}
	}
	return api.None{}, c.o.Stop(ctx, in)
}

// Doctor says what this host can do.
func (c *Control) Doctor(ctx context.Context, _ api.None) ([]api.Check, error) {
	checks := host.Doctor(ctx, c.o.Config, c.o.Tools, c.anyKernel(ctx))
	return append(checks, c.o.VMs.CheckNetwork(ctx)), nil
}

// anyKernel returns the vmlinux of a kernel that is there, for a trial boot, or "".
func (c *Control) anyKernel(ctx context.Context) string {
	kernels, err := c.o.Kernels.List(ctx)
	if err != nil || len(kernels) == 0 {
		return ""
	}
	return c.o.Kernels.Vmlinux(kernels[0].ID)
}
