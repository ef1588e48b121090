package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"banger/internal/guestd/identity"
	"banger/internal/guestd/netcfg"
	agentv1 "banger/proto/agent/v1"
)

// Configure tells this guest who it is now. Nothing is changed unless all of the request is in order; calls wait for
// each other.
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
	return netcfg.Apply(at, card, want)
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

// parseNetwork reads and checks a request's network as the boot does what the kernel command line says.
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
