package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink"

	"banger/internal/network"
)

// resolvectlTimeout bounds one call of resolvectl.
const resolvectlTimeout = 10 * time.Second

// ErrNoResolved says that the host's names are not resolved by systemd-resolved.
var ErrNoResolved = errors.New("systemd-resolved does not run on this host")

// RouteDNS has the host's systemd-resolved ask the gateway for names of VMs, and for nothing else:
// now if the network runs, and whenever it comes up, until UnrouteDNS. Only root's network can be
// asked, by its veth uplink.
func RouteDNS(ctx context.Context, c *network.Client) error {
	if c.Rootless() {
		return errors.New("route DNS: an ordinary user's network is not reached from the host")
	}
	if err := resolvectl(ctx, "status"); err != nil {
		return fmt.Errorf("%w: %w", ErrNoResolved, err)
	}
	if err := os.MkdirAll(string(c.Dir()), 0o700); err != nil {
		return fmt.Errorf("make network's folder: %w", err)
	}
	if err := os.WriteFile(c.Dir().DNSNote(), nil, 0o600); err != nil {
		return fmt.Errorf("note that DNS is routed: %w", err)
	}
	held, err := c.Running()
	if err != nil || !held {
		return err
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	return newVeth(c.Dir(), status.Subnet).routeDNS(ctx)
}

// UnrouteDNS takes back what RouteDNS did. It is idempotent.
func UnrouteDNS(ctx context.Context, c *network.Client) error {
	err := os.Remove(c.Dir().DNSNote())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("forget that DNS is routed: %w", err)
	}
	link := newVeth(c.Dir(), network.DefaultSubnet).link
	if _, err := netlink.LinkByName(link); err != nil {
		return nil //nolint:nilerr // resolved forgot it with the link
	}
	return resolvectl(ctx, "revert", link)
}

// DNSRouted reports whether RouteDNS is in force.
func DNSRouted(d network.Dir) bool {
	_, err := os.Lstat(d.DNSNote())
	return err == nil
}

// routeDNS tells systemd-resolved about the uplink, which forgets it with the link.
func (v *veth) routeDNS(ctx context.Context) error {
	for _, args := range [][]string{
		{"dns", v.link, network.Gateway(v.subnet).String()},
		{"domain", v.link, "~" + network.Domain},
		{"default-route", v.link, "false"},
	} {
		if err := resolvectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func resolvectl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, resolvectlTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "resolvectl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("resolvectl %v: %w %.300s", args, err, bytes.TrimSpace(out))
	}
	return nil
}
