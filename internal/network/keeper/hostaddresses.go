package keeper

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// followHostAddresses keeps the rules' list of the host's addresses true. The kernel drops a
// subscriber to whom it has too much to say at once (netlink(7), ENOBUFS): it is asked anew.
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
		if err := k.change(ctx, unchanged); err != nil {
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
