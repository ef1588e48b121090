// Package keeper is the process that serves a home's network from the host's namespaces (see
// package network): it finds or starts the holder in there (package namespace), and owns the lock,
// the control socket, uplink, relay and DNS server.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"banger/internal/atomicfile"
	"banger/internal/home"
	"banger/internal/network"
	"banger/internal/network/dns"
	"banger/internal/network/namespace"
	"banger/internal/network/plan"
	"banger/internal/network/relay"
	"banger/internal/network/uplink"
)

// Config is what the keeper is started with.
type Config struct {
	Home       home.Dir     // the home folder; the network's files lie in its folder net
	Subnet     netip.Prefix // see network.CheckSubnet
	Rootless   bool         // a user namespace and pasta; else the caller is root, and the uplink a veth pair
	ResolvConf string       // the host's, /etc/resolv.conf
	Holder     []string     // the command that runs holder.Run
	Ready      *os.File     // hears when all runs, or the error, see network.TellReady; closed then
}

// keeper is the process that Serve is.
type keeper struct {
	config   Config
	inside   *namespace.Namespace
	uplink   uplink.Uplink
	services *relay.Services
	relay    *relay.Relay // nil when the uplink carries TCP
	log      *slog.Logger
	stop     context.CancelCauseFunc

	enforcers []enforcer               // see enforce
	writer    chan struct{}            // has room for one: whoever changes the network
	now       atomic.Pointer[snapshot] // is replaced by the writer alone
	remember  func([]network.Endpoint) error
	unsettled atomic.Bool // see settle
}

var errStopped = errors.New("stopped by request")

// Serve keeps the network until it is told to stop, or ctx ends; then it takes all of it down,
// holder and uplink with it. Killed, or on an error, it leaves the holder for its successor. It
// keeps the home's lock: the process has to end with it.
func Serve(ctx context.Context, c Config, log *slog.Logger) error {
	if c.Ready != nil {
		unix.CloseOnExec(int(c.Ready.Fd())) // its end must mean this process's, not its children's
	}
	err := serve(ctx, c, log)
	if c.Ready != nil && err != nil {
		_ = network.TellReady(c.Ready, err) // closed when it was ready once
	}
	return err
}

func serve(ctx context.Context, c Config, log *slog.Logger) error {
	d := network.HomeDir(c.Home)
	if err := errors.Join(network.CheckSubnet(c.Subnet), d.Check()); err != nil {
		return err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make network's folder: %w", err)
	}
	if err := takeLock(d); err != nil {
		return err
	}
	if err := atomicfile.Sweep(string(d)); err != nil { // what a killed keeper was writing
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	k := &keeper{
		config: c, log: log, stop: stop, writer: make(chan struct{}, 1),
		remember: func(endpoints []network.Endpoint) error { return remember(d, endpoints) },
	}
	if err := k.setUp(ctx, d); err != nil {
		fresh := k.inside != nil && k.inside.Found == nil
		return errors.Join(err, k.tearDown(fresh))
	}
	err := k.run(ctx, d)
	asked := errors.Is(context.Cause(ctx), errStopped) || ctx.Err() != nil
	if asked {
		err = nil
	}
	return errors.Join(err, k.tearDown(asked))
}

// takeLock takes the home's lock, which the kernel drops with this process and nothing else: who
// finds it free (Client.Stop) may rely on the process being gone.
func takeLock(d network.Dir) error {
	lock, err := unix.Open(d.Lock(), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open network's lock: %w", err)
	}
	err = unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = network.ErrServed
	}
	if err != nil {
		return errors.Join(fmt.Errorf("lock network: %w", err), unix.Close(lock))
	}
	return nil
}

// setUp brings up, in this order: the holder (found or new), the uplink, the links and rules.
func (k *keeper) setUp(ctx context.Context, d network.Dir) (err error) {
	if err := uplink.CheckConflict(d, k.config.Subnet, k.config.Rootless); err != nil {
		return err
	}
	if k.inside, err = namespace.Open(ctx, d, k.config.Holder, k.config.Rootless); err != nil {
		return err
	}
	k.services = relay.NewServices(k.inside.ServiceSocket, network.Gateway(k.config.Subnet), k.log)
	k.uplink, err = uplink.Start(ctx, uplink.Config{
		Dir: d, Subnet: k.config.Subnet, Rootless: k.config.Rootless, Holder: k.inside.PID, IPv6: k.inside.IPv6,
	}, k.log)
	if err != nil {
		return err
	}
	state, err := k.foundState(d)
	if err != nil {
		return err
	}
	k.log.InfoContext(ctx, "IPv6", "between machines", state.IPv6, "uplink", k.uplink.State6())
	if state.Relay || k.inside.Found == nil {
		if err := k.openRelay(&state); err != nil {
			return err
		}
	}
	k.enforcers = []enforcer{k.inside.Apply, func(s plan.State) error { return k.services.Apply(s.Endpoints) }}
	if k.relay != nil {
		k.enforcers = append(k.enforcers, func(s plan.State) error { k.relay.Apply(s.Endpoints); return nil })
	}
	k.now.Store(newSnapshot(state))
	if err := k.change(ctx, unchanged); err != nil {
		return err
	}
	if k.relay != nil {
		k.relay.Start()
	}
	return nil
}

// foundState is the network's state as it was left, or a new one.
func (k *keeper) foundState(d network.Dir) (s plan.State, err error) {
	s = plan.State{Subnet: k.config.Subnet, MTU: k.uplink.MTU(), Veth: !k.config.Rootless}
	s.IPv6 = k.inside.IPv6 && s.MTU >= uplink.MinMTU6
	if found := k.inside.Found; found != nil {
		if found.Subnet != k.config.Subnet {
			return s, fmt.Errorf("take over network: it has subnet %s, not %s; stop it first", found.Subnet,
				k.config.Subnet)
		}
		s.Endpoints, s.Relay = found.Endpoints, found.Relay
	} else if k.inside.Joined {
		s.Endpoints, err = remembered(d)
	}
	return s, err
}

// openRelay has the relay carry TCP, unless the kernel cannot: then the uplink does. Rules that are
// in force lead to the relay, and it is an error that there is none.
func (k *keeper) openRelay(s *plan.State) error {
	files, err := k.inside.RelayFiles()
	if err == nil {
		k.relay, err = relay.New(files, k.log)
	}
	if err != nil && !s.Relay {
		k.log.Warn("the uplink carries TCP", "err", err)
		return nil
	}
	s.Relay = true
	return err
}

// tearDown ends what setUp began, the rest when a step fails. Not all: then the holder stays, with
// the VMs' taps, for the next keeper.
func (k *keeper) tearDown(all bool) error {
	d := network.HomeDir(k.config.Home)
	left := []string{d.ControlSocket()}
	var errs []error
	// A change that is under way, of a client that the server waited for in vain, ends first.
	if end, err := k.beginWrite(context.Background()); err != nil {
		errs = append(errs, err)
	} else {
		defer end()
	}
	if k.services != nil {
		k.services.Close()
	}
	if k.relay != nil {
		k.relay.Close()
	}
	if k.uplink != nil {
		errs = append(errs, k.uplink.Close())
	}
	if all && k.inside != nil {
		errs = append(errs, k.inside.Stop())
		left = append(left, d.HolderSocket(), d.EndpointsNote())
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove file: %w", err))
		}
	}
	return errors.Join(errs...)
}

// run serves DNS and the control socket, follows the host's addresses and watches the holder, until
// one of them fails or ctx ends.
func (k *keeper) run(ctx context.Context, d network.Dir) error {
	packets, streams, err := k.inside.DNSSockets(network.Gateway(k.config.Subnet))
	if err != nil {
		return err
	}
	control, err := listenControl(d)
	if err != nil {
		return errors.Join(err, packets.Close(), streams.Close())
	}
	server := &http.Server{Handler: k.routes(), ReadHeaderTimeout: controlTimeout, ReadTimeout: controlTimeout}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.nameServer().Serve(ctx, packets, streams) })
	group.Go(func() error { return server.Serve(control) })
	group.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), controlTimeout)
		defer cancel()
		return errors.Join(server.Shutdown(end), ctx.Err())
	})
	group.Go(func() error { return k.followHostAddresses(ctx) })
	group.Go(func() error { return k.settle(ctx) })
	group.Go(func() error { return k.inside.Wait(ctx) })
	k.ready()
	return group.Wait()
}

// nameServer answers from what the network is at the moment of each question.
func (k *keeper) nameServer() *dns.Server {
	return &dns.Server{
		Domain: network.Domain, Subnets: k.now.Load().subnets(), ResolvConf: k.config.ResolvConf, Log: k.log,
		Lookup:  func(name string) []netip.Addr { return k.now.Load().lookup(name) },
		Reverse: func(a netip.Addr) (string, bool) { name, ok := k.now.Load().byAddress[a]; return name, ok },
	}
}

func (k *keeper) ready() {
	if k.config.Ready == nil {
		return
	}
	if err := network.TellReady(k.config.Ready, nil); err != nil {
		k.log.Warn("nobody waits for this process", "err", err)
	}
	k.config.Ready.Close()
}

// controlTimeout bounds what a client of the control socket may take to send, and the end of the
// server.
const controlTimeout = 10 * time.Second
