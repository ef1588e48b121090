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

// Start starts the uplink of the namespace of the process holder: pasta for an ordinary user, else
// a veth pair. What a killed keeper left of it is taken down first. ipv6 says that the namespace
// can have that.
func Start(ctx context.Context, d network.Dir, subnet netip.Prefix, rootless bool, holder int, ipv6 bool, log *slog.Logger) (Uplink, error) {
	if rootless {
		p, err := startPasta(d, holder, ipv6, log)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	v, err := startVeth(d, subnet, holder, ipv6, log)
	if err != nil {
		return nil, err
	}
	if DNSRouted(d) {
		if err := v.routeDNS(ctx); err != nil {
			log.WarnContext(ctx, "the host does not ask for names of VMs", "err", err)
		}
	}
	return v, nil
}
