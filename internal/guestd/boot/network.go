package boot

import (
	"context"

	"banger/internal/guestd/identity"
	"banger/internal/guestd/netcfg"
)

func (s *state) writeIdentity(context.Context) error {
	etc, err := makeInRoot(newRoot, "/etc", 0o755)
	if err != nil {
		return err
	}
	return identity.Apply(etc, s.cmdline.Identity, s.cmdline.Network)
}

// setUpNetwork raises loopback and, if the host gave the VM an address, configures its network
// card.
func (s *state) setUpNetwork(ctx context.Context) error {
	if err := netcfg.Raise("lo"); err != nil {
		return err
	}
	if !s.cmdline.Network.Address.IsValid() {
		return nil
	}
	card, err := netcfg.WaitCard(ctx)
	if err != nil {
		return err
	}
	etc, err := makeInRoot(newRoot, "/etc", 0o755)
	if err != nil {
		return err
	}
	return netcfg.Apply(netcfg.Folders{Etc: etc, Run: "/run"}, card, s.cmdline.Network)
}
