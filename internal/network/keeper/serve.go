// Package keeper is the process that serves a home's network from the host's namespaces (see package network): it finds or
// starts the holder, and owns the lock, the control socket, uplink, relay and DNS server.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/dns"
	"banger/internal/network/plan"
	"banger/internal/network/relay"
	"banger/internal/network/uplink"
)

// Config is what the keeper is started with.
type Config struct {
	Home       string       // the home folder; the network's files lie in its folder net
	Subnet     netip.Prefix // see network.CheckSubnet
	Rootless   bool         // a user namespace and pasta; else the caller is root, and the uplink a veth pair
	ResolvConf string       // the host's, /etc/resolv.conf
	Holder     []string     // the command that runs holder.Hold
	Ready      *os.File     // hears when all runs, or the error, see network.TellReady; closed then
}

// keeper is the process that Serve is.
type keeper struct {
	config   Config
	holder   *holder
	uplink   uplink.Uplink
	services *relay.Services
	relay    *relay.Relay // nil when pasta carries TCP, or the uplink is a veth
	log      *slog.Logger
	stop     context.CancelCauseFunc

	mu    sync.Mutex
	state plan.State // what the holder was told last
}

var errStopped = errors.New("stopped by request")

// Serve keeps the network until it is told to stop, or ctx ends; then it takes all of it down, holder and uplink with it.
// Killed, or on an error, it leaves the holder for its successor. It keeps the home's lock: the process has to end with it.
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
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	k := &keeper{config: c, log: log, stop: stop}
	if err := k.setUp(ctx, d); err != nil {
		fresh := k.holder != nil && k.holder.found == nil
		return errors.Join(err, k.tearDown(fresh))
	}
	err := k.run(ctx, d)
	asked := errors.Is(context.Cause(ctx), errStopped) || ctx.Err() != nil
	if asked {
		err = nil
	}
	return errors.Join(err, k.tearDown(asked))
}

// takeLock takes the home's lock, which the kernel drops with this process and nothing else: who finds it free (Client.Stop)
// may rely on the process being gone.
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
	if k.holder, err = openHolder(ctx, d, k.config.Holder, k.config.Rootless); err != nil {
		return err
	}
	k.services = relay.NewServices(k.holder.serviceSocket, network.Gateway(k.config.Subnet), k.log)
	k.uplink, err = uplink.Start(ctx, d, k.config.Subnet, k.config.Rootless, k.holder.pid, k.holder.ipv6, k.log)
	if err != nil {
		return err
	}
	k.state = plan.State{Subnet: k.config.Subnet, MTU: k.uplink.MTU(), Veth: !k.config.Rootless}
	k.state.IPv6 = k.holder.ipv6 && k.state.MTU >= uplink.MinMTU6
	k.log.InfoContext(ctx, "IPv6", "between VMs", k.state.IPv6, "uplink", k.uplink.State6())
	if found := k.holder.found; found != nil {
		if found.Subnet != k.config.Subnet {
			return fmt.Errorf("take over network: it has subnet %s, not %s; stop it first", found.Subnet, k.config.Subnet)
		}
		k.state.Ports, k.state.Relay = found.Ports, found.Relay
	} else if k.holder.joined {
		if k.state.Ports, err = remembered(d); err != nil {
			return err
		}
	}
	if k.config.Rootless && (k.state.Relay || k.holder.found == nil) {
		if err := k.startRelay(); err != nil {
			return err
		}
	}
	if err := k.change(func(s *plan.State) error { return nil }); err != nil {
		return err
	}
	if k.relay != nil {
		k.relay.Start()
	}
	return nil
}

// startRelay has the relay carry TCP, unless the kernel cannot: then pasta does. Rules that are in force lead to the relay, and
// it is an error that there is none.
func (k *keeper) startRelay() error {
	files, err := k.holder.relayFiles()
	if err == nil {
		k.relay, err = relay.New(files, k.log)
	}
	if err != nil && !k.state.Relay {
		k.log.Warn("pasta carries TCP", "err", err)
		return nil
	}
	k.state.Relay = true
	return err
}

// tearDown ends what setUp began, the rest when a step fails. Not all: then the holder stays, with the VMs' taps, for the
// next keeper.
func (k *keeper) tearDown(all bool) error {
	d := network.HomeDir(k.config.Home)
	left := []string{d.ControlSocket()}
	var errs []error
	if k.services != nil {
		k.services.Close()
	}
	if k.relay != nil {
		k.relay.Close()
	}
	if k.uplink != nil {
		errs = append(errs, k.uplink.Close())
	}
	if all && k.holder != nil {
		errs = append(errs, k.holder.stop())
		left = append(left, d.HolderSocket(), d.PortsNote())
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove file: %w", err))
		}
	}
	return errors.Join(errs...)
}

// run serves DNS and the control socket, follows the host's addresses and watches the holder, until one of them fails or
// ctx ends.
func (k *keeper) run(ctx context.Context, d network.Dir) error {
	packets, streams, err := k.holder.dnsSockets(network.Gateway(k.config.Subnet))
	if err != nil {
		return err
	}
	names := &dns.Server{
		Domain: network.Domain, Subnets: k.subnets(), Lookup: k.lookup, Reverse: k.reverse,
		ResolvConf: k.config.ResolvConf, Log: k.log,
	}
	control, err := listenControl(d)
	if err != nil {
		return errors.Join(err, packets.Close(), streams.Close())
	}
	server := &http.Server{Handler: k.routes(), ReadHeaderTimeout: controlTimeout, ReadTimeout: controlTimeout}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return names.Serve(ctx, packets, streams) })
	group.Go(func() error { return server.Serve(control) })
	group.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), controlTimeout)
		defer cancel()
		return errors.Join(server.Shutdown(end), ctx.Err())
	})
	group.Go(func() error { return k.followHostAddresses(ctx) })
	group.Go(func() error { return k.watchHolder(ctx) })
	k.ready()
	return group.Wait()
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

// watchHolder returns an error when the holder has ended.
func (k *keeper) watchHolder(ctx context.Context) error {
	fd, err := unix.PidfdOpen(k.holder.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch holder: %w", err)
	}
	pidfd := os.NewFile(uintptr(fd), "holder")
	defer pidfd.Close()
	defer context.AfterFunc(ctx, func() { pidfd.Close() })()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch holder: %w", err)
	}
	err = raw.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errors.New("the holder of the namespace has ended"), err)
}

// change edits the state, has the holder make it so, and keeps it only when that succeeds.
func (k *keeper) change(edit func(*plan.State) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.state
	next.Ports = slices.Clone(k.state.Ports)
	if err := edit(&next); err != nil {
		return err
	}
	sortPorts(next.Ports)
	var err error
	if next.HostAddresses, next.HostAddresses6, err = hostAddresses(); err != nil {
		return err
	}
	next.Outside6 = next.IPv6 && k.uplink.State6() == network.UplinkUp
	if err := k.holder.apply(next); err != nil {
		// What the holder did before it failed is put back; should that fail too, the next change will.
		return errors.Join(err, k.holder.apply(k.state))
	}
	if err := k.services.Serve(next.Ports); err != nil {
		return errors.Join(err, k.holder.apply(k.state), k.services.Serve(k.state.Ports))
	}
	if k.relay != nil {
		k.relay.Serve(next.Ports)
	}
	k.state = next
	return remember(network.HomeDir(k.config.Home), next.Ports)
}

// followHostAddresses keeps the rules' list of the host's addresses true. The kernel drops a subscriber to whom it has too much
// to say at once (netlink(7), ENOBUFS): it is asked anew.
func (k *keeper) followHostAddresses(ctx context.Context) error {
	for {
		if err := k.followUntilDropped(ctx); err != nil {
			return err
		}
		k.log.InfoContext(ctx, "many of the host's addresses changed at once")
	}
}

func (k *keeper) followUntilDropped(ctx context.Context) error {
	subscribed, end := context.WithCancel(ctx)
	defer end()
	updates := make(chan netlink.AddrUpdate, 64)
	if err := netlink.AddrSubscribe(updates, subscribed.Done()); err != nil {
		return fmt.Errorf("follow the host's addresses: %w", err)
	}
	for open := true; open; { // first for what changed while there was no subscription
		if err := k.change(func(*plan.State) error { return nil }); err != nil {
			k.log.WarnContext(ctx, "the host's new addresses are not in the rules", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, open = <-updates:
		}
		for len(updates) > 0 {
			<-updates
		}
	}
	return ctx.Err()
}

// hostAddresses returns the host's addresses, IPv4 and IPv6.
func hostAddresses() (v4, v6 []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil:
		case p.Addr().Is4():
			v4 = append(v4, p.Addr())
		case !p.Addr().IsLinkLocalUnicast(): // those no VM reaches anyway
			v6 = append(v6, p.Addr())
		}
	}
	return v4, v6, nil
}

// controlTimeout bounds what a client of the control socket may take to send, and the end of the server.
const controlTimeout = 10 * time.Second
