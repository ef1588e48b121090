// Package uplink is the way out of the network's namespace, and what it takes on the host: pasta
// for an ordinary user, a veth pair, forwarding and rules for root.
package uplink

import (
	"context"
	"log/slog"
	"net/netip"

	"banger/internal/network"
)

// Uplink is the way out of the namespace.
type Uplink interface {
	MTU() int
	State() string  // UplinkUp, or why not
	State6() string // UplinkUp, or why IPv6 has no way out
	Close() error   // removes all of it; idempotent
}

// Config is what an uplink is made for.
type Config struct {
	Dir      network.Dir
	Subnet   netip.Prefix
	Rootless bool // pasta, else a veth pair
	Holder   int  // pid of the process in whose namespace it ends
	IPv6     bool // the namespace can have it
}

// Start starts the uplink. What a killed keeper left of it is taken down first.
func Start(ctx context.Context, c Config, log *slog.Logger) (Uplink, error) {
	if c.Rootless {
		p, err := startPasta(c, log)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	v, err := startVeth(c, log)
	if err != nil {
		return nil, err
	}
	if DNSRouted(c.Dir) {
		if err := v.routeDNS(ctx); err != nil {
			log.WarnContext(ctx, "the host does not ask for names of machines", "err", err)
		}
	}
	return v, nil
}
