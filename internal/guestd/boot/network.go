package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	cardWait = 5 * time.Second // for the network card, whose driver is loaded already
	cardPoll = 5 * time.Millisecond
)

// setUpNetwork raises loopback and, if the host gave the VM an address, configures its network card. It does so before
// the image's init runs, so that every image has the same network, whatever it uses to configure one itself.
func (s *state) setUpNetwork(ctx context.Context) error {
	if err := raise("lo"); err != nil {
		return err
	}
	n := s.cmdline.Network
	if !n.Address.IsValid() {
		return nil
	}
	card, err := waitCard(ctx, "/sys/class/net", cardWait)
	if err != nil {
		return err
	}
	if err := n.apply(card); err != nil {
		return err
	}
	etc, err := makeInRoot(newRoot, "/etc", 0o755)
	if err != nil {
		return err
	}
	return errors.Join(n.writeResolvConf(etc), n.writeManagerFiles("/run", card))
}

// raise sets an interface up. Loopback gets its addresses by that.
func raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// apply configures the interface. It can be repeated.
func (n Network) apply(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if n.MTU != 0 {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", name, n.MTU, err)
		}
	}
	own := &net.IPNet{IP: n.Address.Addr().AsSlice(), Mask: net.CIDRMask(n.Address.Bits(), 32)}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: own}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, n.Address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	if !n.Gateway.IsValid() {
		return nil
	}
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: n.Gateway.AsSlice(), Protocol: unix.RTPROT_STATIC}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route by gateway %s: %w", n.Gateway, err)
	}
	return nil
}

// waitCard waits for the VM's virtio-net card, at most for deadline, and gives its name: eth0, with net.ifnames=0. Of
// several the first one counts.
func waitCard(ctx context.Context, sysNet string, deadline time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tick := time.NewTicker(cardPoll)
	defer tick.Stop()
	for {
		card, others := scanCards(sysNet)
		if card != "" {
			return card, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("no virtio-net card (there is: %s)", strings.Join(others, ", "))
		}
	}
}

// scanCards looks for an interface of the driver virtio_net, and lists the others for an error's sake.
func scanCards(sysNet string) (card string, others []string) {
	paths, _ := filepath.Glob(filepath.Join(sysNet, "*"))
	for _, path := range paths {
		driver, err := os.Readlink(filepath.Join(path, "device/driver"))
		if err == nil && filepath.Base(driver) == "virtio_net" {
			return filepath.Base(path), nil
		}
		others = append(others, filepath.Base(path))
	}
	return "", others
}
