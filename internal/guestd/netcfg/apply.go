// Package netcfg gives a guest its network: the card's MAC, MTU, addresses and routes, and the
// files that tell the image's resolver and network managers the same. The boot does so before the
// image's init runs, so that every image has the same network, whatever it uses to configure one
// itself; the agent does it again in a machine that was made of another one's memory.
//
// Apply is for both: what it gave earlier and should not be there is taken away, and what others
// added stays. What it gave it knows from a file in /run.
package netcfg

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Folders say where the guest's files are: /etc and /run, but below the new root while that is not
// the root yet.
type Folders struct {
	Etc, Run string
}

// Apply gives the card want's network. It can be repeated, and another Apply carries on after one
// that failed. A want without addresses takes away what was given. It must not run twice at once.
func Apply(at Folders, card string, want Config) error {
	earlier, err := readGiven(at.Run)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(card)
	if err != nil {
		return fmt.Errorf("find %s: %w", card, err)
	}
	before := with(earlier, Config{MAC: link.Attrs().HardwareAddr})
	if len(want.MAC) == 0 {
		want.MAC = link.Attrs().HardwareAddr
	}
	// Before anything is changed: whoever carries on after a failure must know both, also the
	// link-local address of now.
	if err := writeGiven(at.Run, with(before, want)); err != nil {
		return err
	}
	if err := applyCard(link, before, want); err != nil {
		return err
	}
	if !hasIPv6(card) { // nor need a network manager try
		want.Address6, want.Gateway6 = netip.Prefix{}, netip.Addr{}
	}
	if err := errors.Join(want.writeResolvConf(at), want.writeManagerFiles(at.Run, card)); err != nil {
		return err
	}
	return writeGiven(at.Run, []Config{want})
}

// applyCard sets the link first: by its MTU and by being up the kernel decides whether it does IPv6
// there.
func applyCard(link netlink.Link, earlier []Config, want Config) (err error) {
	name := link.Attrs().Name
	if err := setLink(link, want); err != nil {
		return err
	}
	now, err := readState(name)
	if err != nil {
		return err
	}
	changes := plan(now, earlier, want)
	if len(changes) == 0 {
		return nil
	}
	restore, err := keepSecondaries(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	if now.ipv6 && want.Address6.IsValid() {
		if err := keepAddresses6(name); err != nil {
			return err
		}
	}
	for _, c := range changes {
		if err := c.do(link); err != nil {
			return err
		}
	}
	return nil
}
