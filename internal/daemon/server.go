// Package daemon is the process behind the CLI: it owns one home folder, wires the packages that do the work together
// and serves the HTTP API of package api on a unix socket. It holds no logic of its own beyond that.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/build"
	"banger/internal/builder"
	"banger/internal/config"
	"banger/internal/debian"
	"banger/internal/host"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/network"
	"banger/internal/oci"
	"banger/internal/provision"
	"banger/internal/store"
	"banger/internal/vm"
)

const (
	// drainTimeout is how long a daemon that is replaced lets operations go on before it cancels them.
	drainTimeout = 10 * time.Minute
	// closeTimeout is how long requests may take to end once everything they wait for is cancelled.
	closeTimeout = 10 * time.Second
)

// SocketPath is where the daemon of a home folder listens.
func SocketPath(home string) string { return filepath.Join(home, "daemon.sock") }

// CheckHome refuses a home folder whose path is too long for the sockets in it.
func CheckHome(home string) error {
	return vm.CheckSocketPath(SocketPath(home))
}

// LogPath is where a daemon that was started by a command writes its log.
func LogPath(home string) string { return filepath.Join(home, "daemon.log") }

// Server is a running daemon.
type Server struct {
	config  config.Config
	tools   host.Tools
	log     *slog.Logger
	store   *store.Store
	images  *image.Catalog
	kernels *kernel.Catalog
	vms     *vm.Manager
	builder *builder.Builder
	began   time.Time

	ctx      context.Context // ends when all requests must end
	stops    chan stopRequest
	sessions sync.WaitGroup // hijacked connections, which http.Server does not wait for
}

type stopRequest struct {
	drain    bool
	released chan struct{} // closed once another daemon can take the home folder
}

// Run serves until ctx ends or a client stops it. It returns nil after an orderly end. Running VMs outlive it.
func Run(ctx context.Context, c config.Config, tools host.Tools, log *slog.Logger) error {
	if err := CheckHome(c.Home); err != nil {
		return err
	}
	for _, dir := range []string{c.Home, filepath.Join(c.Home, "vms")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make home folder: %w", err)
		}
	}
	unlock, err := lockHome(ctx, c.Home)
	if err != nil {
		return err
	}
	release := sync.OnceFunc(unlock)
	defer release()
	db, err := store.Open(ctx, filepath.Join(c.Home, "state.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	s := &Server{
		config: c, tools: tools, log: log, store: db, began: time.Now(), ctx: requests, stops: make(chan stopRequest),
		kernels: &kernel.Catalog{
			Root: filepath.Join(c.Home, "kernels"), Store: db, Archive: debian.Archive{Mirror: c.DebianMirror}, Package: c.KernelPackage,
		},
	}
	s.images = &image.Catalog{
		Root: filepath.Join(c.Home, "images"), Store: db, Kernels: s.kernels, Mirror: c.DebianMirror, UbuntuMirror: c.UbuntuMirror, Stale: provision.Stale,
		Layers: &oci.Cache{Dir: filepath.Join(c.Home, "cache", "layers", "sha256")},
	}
	if err := errors.Join(s.images.Sweep(ctx), s.kernels.Sweep(ctx)); err != nil {
		return err
	}
	s.vms = vm.New(vm.Options{
		Network: network.NewClient(c.Home, os.Geteuid() != 0, []string{tools.Self, "netns", "keep"}),
		Store:   db, Images: s.images, Kernels: s.kernels, Config: c, Log: log, GuestBinary: tools.Guest,
		PickVMM: func(ctx context.Context, vmlinux string) (string, error) {
			choice, err := host.PickVMM(ctx, c, tools, vmlinux)
			return choice.Binary, err
		},
	})
	if err := s.vms.Recover(ctx); err != nil {
		return errors.Join(err, s.vms.Close())
	}
	if s.builder, err = builder.New(s.vms, s.images, c); err != nil {
		return errors.Join(err, s.vms.Close())
	}
	listener, err := listen(SocketPath(c.Home))
	if err != nil {
		return errors.Join(err, s.vms.Close())
	}
	server := &http.Server{Handler: s.routes(), BaseContext: func(net.Listener) context.Context { return requests }, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log.Info("daemon started", "home", c.Home, "pid", os.Getpid(), "version", build.Version())

	var stop stopRequest
	select {
	case <-ctx.Done():
	case stop = <-s.stops:
	case err := <-served:
		return errors.Join(fmt.Errorf("serve API: %w", err), s.vms.Close())
	}
	log.Info("daemon stops", "drain", stop.drain)
	return s.end(stop, listener, server, endRequests, release)
}

// end lets go of the home folder and then ends what clients still do: at once, or when they are done.
func (s *Server) end(stop stopRequest, listener net.Listener, server *http.Server, endRequests, release func()) error {
	errs := []error{ignoreClosed(listener.Close())} // also removes the socket
	if stop.drain {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		s.vms.Retire(ctx)
		cancel()
	} else {
		endRequests()
		errs = append(errs, s.vms.Close())
	}
	errs = append(errs, s.store.Close())
	release()
	if stop.released != nil {
		close(stop.released)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if !stop.drain {
		ctx, cancel = context.WithTimeout(ctx, closeTimeout)
	}
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		errs = append(errs, server.Close())
	}
	s.sessions.Wait() // after Shutdown, which sees to it that none begins any more
	if stop.drain {
		s.vms.WaitForwards()
	}
	endRequests()
	return errors.Join(append(errs, s.vms.Close())...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// lockTimeout is how long a daemon that does not answer may hold the home folder: one that is being killed, or that has just
// started and recovers its VMs.
const lockTimeout = 25 * time.Second

// lockHome takes the home folder for this process alone; the lock's file names it for people. It refuses at once when the
// daemon that has the folder answers.
func lockHome(ctx context.Context, home string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(home, "daemon.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock home folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock home folder: %w", err), file.Close())
		}
		if ctx.Err() == nil && !answers(ctx, SocketPath(home)) {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			continue
		}
		pid := make([]byte, 32)
		n, _ := file.ReadAt(pid, 0)
		file.Close()
		return nil, api.Errorf(api.CodeConflict, "another daemon (pid %s) serves %s", strings.TrimSpace(string(pid[:n])), home).
			WithHint("end it: banger daemon stop")
	}
	if err := errors.Join(file.Truncate(0), writePID(file)); err != nil {
		return nil, errors.Join(fmt.Errorf("lock home folder: %w", err), file.Close())
	}
	return func() { file.Close() }, nil
}

// answers reports whether a process listens on the socket.
func answers(ctx context.Context, socket string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func writePID(file *os.File) error {
	_, err := fmt.Fprintln(file, os.Getpid())
	return err
}

// listen makes the socket, for this user only. A socket that is there is a dead daemon's: we hold the home's lock.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	// The folder is 0700, so nobody connects between bind and chmod.
	listener, err := net.Listen("unix", path) //nolint:noctx // binding a unix socket does not block
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), listener.Close())
	}
	return listener, nil
}
