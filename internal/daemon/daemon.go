// Package daemon is the process behind the CLI: it owns one home folder, wires the packages that do
// the work together, serves their operations on a unix socket, and makes way for another build of
// itself. It holds no logic beyond that.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"banger/api"
	"banger/internal/build"
	"banger/internal/builder"
	"banger/internal/config"
	"banger/internal/control"
	"banger/internal/debian"
	"banger/internal/host"
	"banger/internal/httpapi"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/network"
	"banger/internal/oci"
	"banger/internal/provision"
	"banger/internal/store"
	"banger/internal/vm"
)

const (
	// drainTimeout is how long a daemon that is replaced waits for the changes under way before it
	// cancels them. An image build takes a quarter of an hour without KVM.
	drainTimeout = time.Hour
	// closeTimeout is how long requests may take to end once everything they wait for is cancelled.
	closeTimeout = 10 * time.Second
)

// Options is what a daemon is started with. All fields are needed.
type Options struct {
	Config   config.Config
	Settings []api.Setting // what Config was made of
	Tools    host.Tools
	Log      *slog.Logger
}

// server is a running daemon.
type server struct {
	Options
	store    *store.Store
	vms      *vm.Manager
	control  *control.Control
	handler  *httpapi.Server
	listener net.Listener
	http     *http.Server
	served   chan error

	endRequests func()
	release     func() // lets go of the home folder
	stops       chan stopRequest
	awaited     atomic.Int32  // clients that wait until released
	cutting     chan struct{} // closed once everything is being cancelled
	released    chan struct{} // closed once another daemon can take the home folder
}

// errStopped is why requests end that a stop has cut.
var errStopped = api.Errorf(api.CodeUnavailable, "the daemon was stopped").WithHint("try again: the next command starts a new one")

// stopRequest is one client's wish that the daemon ends.
type stopRequest struct{ drain bool }

// Run serves until ctx ends or a client stops it. It returns nil after an orderly end. Running VMs
// outlive it.
func Run(ctx context.Context, o Options) error {
	dir := o.Config.Home
	if err := dir.Check(); err != nil {
		return err
	}
	for _, path := range []string{string(dir), dir.VMs()} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return fmt.Errorf("make home folder: %w", err)
		}
	}
	unlock, err := lockHome(ctx, dir)
	if err != nil {
		return err
	}
	s := &server{
		Options: o, release: sync.OnceFunc(unlock),
		stops: make(chan stopRequest), cutting: make(chan struct{}), released: make(chan struct{}), served: make(chan error, 1),
	}
	defer s.release()
	if s.store, err = store.Open(ctx, dir.Database()); err != nil {
		return err
	}
	defer s.store.Close()
	requests, end := context.WithCancelCause(context.WithoutCancel(ctx))
	endRequests := func() { end(errStopped) }
	defer endRequests()
	s.endRequests = endRequests
	if err := s.wire(ctx, requests); err != nil {
		return err
	}
	return s.serve(ctx, requests)
}

// wire makes the packages that do the work, and recovers what an earlier daemon left.
func (s *server) wire(ctx, requests context.Context) error {
	c := s.Config
	kernels := &kernel.Catalog{
		Root: c.Home.Kernels(), Store: s.store,
		Archive: debian.Archive{Mirror: c.DebianMirror}, Package: c.KernelPackage,
	}
	images := &image.Catalog{
		Root: c.Home.Images(), Store: s.store, Kernels: kernels,
		Mirror: c.DebianMirror, UbuntuMirror: c.UbuntuMirror, Stale: provision.Stale,
		Layers: &oci.Cache{Dir: c.Home.Layers()},
	}
	if err := errors.Join(images.Sweep(ctx), kernels.Sweep(ctx)); err != nil {
		return err
	}
	s.vms = vm.New(vm.Options{
		Network: network.NewClient(c.Home, os.Geteuid() != 0, []string{s.Tools.Self, "netns", "keep"}),
		Store:   s.store, Images: images, Kernels: kernels, Config: c, Log: s.Log, GuestBinary: s.Tools.Guest,
		PickVMM: func(ctx context.Context, vmlinux string) (string, error) {
			choice, err := host.PickVMM(ctx, c, s.Tools, vmlinux)
			return choice.Binary, err
		},
	})
	if err := s.vms.Recover(ctx); err != nil {
		return errors.Join(err, s.vms.Close())
	}
	builds, err := builder.New(s.vms, images, c)
	if err != nil {
		return errors.Join(err, s.vms.Close())
	}
	s.control = control.New(control.Options{
		Config: c, Settings: s.Settings, Tools: s.Tools, Log: s.Log,
		Store: s.store, Images: images, Kernels: kernels, VMs: s.vms, Builder: builds,
		Stop: s.stop, RemoveBySuccessor: s.removeBySuccessor,
	})
	s.handler = httpapi.New(requests, s.control, s.Log)
	return nil
}

// serve answers requests until the daemon is to end.
func (s *server) serve(ctx, requests context.Context) error {
	var err error
	if s.listener, err = listen(s.Config.Home.Socket()); err != nil {
		return errors.Join(err, s.vms.Close())
	}
	s.http = &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return requests },
	}
	go func() { s.served <- s.http.Serve(s.listener) }()
	s.Log.Info("daemon started", "home", string(s.Config.Home), "pid", os.Getpid(), "version", build.Version())
	for {
		select {
		case <-ctx.Done():
			return s.cut()
		case err := <-s.served:
			return errors.Join(fmt.Errorf("serve API: %w", err), s.vms.Close())
		case stop := <-s.stops:
			if !stop.drain {
				return s.cut()
			}
			return s.drain(ctx)
		}
	}
}

// stop asks for the daemon's end and returns when another one can take the home folder.
func (s *server) stop(ctx context.Context, in api.StopDaemon) error {
	s.awaited.Add(1)
	defer s.awaited.Add(-1)
	select {
	case s.stops <- stopRequest{in.Drain}:
	case <-s.released: // another client was faster
		return nil
	case <-ctx.Done():
	}
	select {
	case <-s.released:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-s.cutting: // all requests end, this one too, a moment before what it waits for
		<-s.released
		return nil
	default:
		return context.Cause(ctx)
	}
}

// drain refuses changes and waits for those under way, while it goes on to answer what reads; then
// it lets go of the home folder and waits for the sessions. A stop that does not drain cuts it
// short.
func (s *server) drain(ctx context.Context) error {
	s.Log.Info("daemon is being replaced")
	quiet := s.control.Gate.Close()
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	for waiting := true; waiting; {
		select {
		case <-quiet:
			waiting = false
		case <-timeout.C:
			s.Log.Warn("changes did not end", "after", drainTimeout)
			return s.cut()
		case stop := <-s.stops:
			if !stop.drain {
				return s.cut()
			}
		case <-ctx.Done():
			return s.cut()
		}
	}
	retire, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	s.vms.Retire(retire)
	cancel()
	s.letGo()
	if s.awaited.Load() == 0 {
		s.startSuccessor()
	}
	defer context.AfterFunc(ctx, s.endRequests)()
	err := s.shutdown(context.WithoutCancel(ctx)) // returns when no request is left, however long that takes
	s.handler.Wait()
	s.vms.WaitForwards()
	s.endRequests()
	return errors.Join(err, s.vms.Close())
}

// startSuccessor starts the next daemon where whoever wanted this one's end has not waited for it:
// machines have forwards and a network that want one. It may be of the same build as this one;
// another build's command replaces it at once.
func (s *server) startSuccessor() {
	if s.Tools.Self == "" {
		return
	}
	command := exec.Command(s.Tools.Self, "daemon", "run") //nolint:noctx // it outlives this process
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	command.Dir = "/"
	if err := command.Start(); err != nil {
		s.Log.Error("start the next daemon", "error", err)
		return
	}
	go func() { _ = command.Wait() }() // it says in the log why it ends, such as that another one was faster
}

// cut ends all that clients still do, and then lets go of the home folder.
func (s *server) cut() error {
	s.Log.Info("daemon stops")
	s.closeSocket() // whoever comes now waits for the next daemon
	close(s.cutting)
	s.endRequests()
	errs := []error{s.vms.Close()}
	s.letGo()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := s.shutdown(ctx); err != nil {
		errs = append(errs, s.http.Close())
	}
	s.handler.Wait()
	return errors.Join(errs...)
}

// letGo lets another daemon take the home folder. The store stays open for what still reads;
// nothing here writes any more.
func (s *server) letGo() {
	s.closeSocket()
	s.release()
	close(s.released)
}

// shutdown returns when no request is left, or ctx ends.
func (s *server) shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if errors.Is(err, net.ErrClosed) { // of the listener, which closeSocket has closed
		return nil
	}
	return err
}

func (s *server) closeSocket() {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) { // also removes its file
		s.Log.Error("close the socket", "error", err)
	}
}

// removeBySuccessor removes a machine through the daemon that has taken over.
func (s *server) removeBySuccessor(ctx context.Context, id string) error {
	client := api.NewClient(s.Config.Home.Socket())
	defer client.CloseIdle()
	return client.RemoveMachine(ctx, api.RemoveMachine{Machine: id, Force: true})
}
