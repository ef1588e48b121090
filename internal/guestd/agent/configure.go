package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"banger/internal/guestd/identity"
	"banger/internal/guestd/netcfg"
	agentv1 "banger/proto/agent/v1"
)

// reloadTimeout bounds how long systemd may take to reload its services, which waits while it still
// boots.
const reloadTimeout = 10 * time.Second

// Configure tells this guest who it is now. Nothing is changed unless all of the request is in
// order; calls wait for each other.
func (s *Server) Configure(ctx context.Context, r *agentv1.ConfigureRequest) (*agentv1.ConfigureResponse, error) {
	who, network, err := parseConfigure(r)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("configure: %w", err))
	}
	select {
	case s.configuring <- struct{}{}:
		defer func() { <-s.configuring }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	at := netcfg.Folders{Etc: filepath.Join(s.config.Root, "etc"), Run: filepath.Join(s.config.Root, "run")}
	if err := s.configureNetwork(ctx, at, network); err != nil {
		return nil, fmt.Errorf("configure network: %w", err)
	}
	if err := identity.Apply(at.Etc, who, network); err != nil {
		return nil, fmt.Errorf("configure identity: %w", err)
	}
	return &agentv1.ConfigureResponse{}, nil
}

// configureNetwork does not look for a card that is neither wanted nor was ever given anything.
func (s *Server) configureNetwork(ctx context.Context, at netcfg.Folders, want netcfg.Config) error {
	given, err := netcfg.Given(at)
	if err != nil || !given && !want.Address.IsValid() {
		return err
	}
	card, err := s.findCard(ctx)
	if err != nil {
		return err
	}
	if err := netcfg.Apply(at, card, want); err != nil {
		return err
	}
	if err := reloadManagers(ctx, at.Run); err != nil {
		s.config.Log.Warn("a network manager keeps an earlier network in mind", "err", err)
	}
	return nil
}

// managers are those of systemd that keep in mind what they read, by the folder of /run that each
// has once it has run.
var managers = []struct{ ran, unit string }{
	{"systemd/netif", "systemd-networkd.service"},   // gives old addresses once more when the card's link comes back
	{"systemd/resolve", "systemd-resolved.service"}, // asks the old name servers
}

// reloadManagers has the managers that run read their files again. One that does not run is not
// started.
func reloadManagers(ctx context.Context, run string) error {
	args := []string{"try-reload-or-restart"} // and wait for it, so that none acts on what it read before
	none := len(args)
	for _, m := range managers {
		if _, err := os.Stat(filepath.Join(run, m.ran)); err == nil {
			args = append(args, m.unit)
		}
	}
	if len(args) == none {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("reload network managers: %w: %.200s", err, out)
	}
	return nil
}

// parseConfigure wants a name, for with the addresses its lines in /etc/hosts change.
func parseConfigure(r *agentv1.ConfigureRequest) (identity.Spec, netcfg.Config, error) {
	who := identity.Spec{Hostname: r.Hostname, MachineID: r.MachineId}
	if who.Hostname == "" {
		return who, netcfg.Config{}, errors.New("no host name")
	}
	if err := who.Check(); err != nil {
		return who, netcfg.Config{}, err
	}
	network, err := parseNetwork(r.Network)
	return who, network, err
}

// parseNetwork reads and checks a request's network as the boot does what the kernel command line
// says.
func parseNetwork(n *agentv1.Network) (netcfg.Config, error) {
	if n == nil {
		return netcfg.Config{}, nil
	}
	if n.Address == "" {
		return netcfg.Config{}, errors.New("a network without an address")
	}
	given := map[string]string{
		netcfg.KeyMAC: n.Mac, netcfg.KeyAddress: n.Address, netcfg.KeyGateway: n.Gateway,
		netcfg.KeyAddress6: n.Address6, netcfg.KeyGateway6: n.Gateway6,
		netcfg.KeyNameservers: strings.Join(n.Nameservers, ","), netcfg.KeySearch: n.Search,
	}
	if n.Mtu != 0 {
		given[netcfg.KeyMTU] = strconv.FormatUint(uint64(n.Mtu), 10)
	}
	for key, value := range given {
		if value == "" {
			delete(given, key)
		}
	}
	return netcfg.Parse(given)
}
