package network

import (
	"context"
	"net/netip"
)

// Running reports whether a keeper serves the home.
func (c *Client) Running() (bool, error) { return c.held() }

// Exists reports whether anything of a network may be there, also one whose keeper has died.
func (c *Client) Exists() bool {
	return exists(c.d.holderSocket())
}

// CheckConflict reports what of the host's routes would keep the network from coming up.
func (c *Client) CheckConflict(subnet netip.Prefix) error {
	return checkConflict(subnet, ownLinks(c.d, subnet, c.rootless))
}

// Purge takes down whatever there is of a network, also what killed processes left. VMs must have ended. It is idempotent.
func (c *Client) Purge(ctx context.Context) error {
	held, err := c.held()
	if err != nil {
		return err
	}
	if !held && c.Exists() {
		if err := c.Ensure(ctx); err != nil { // it knows how to find and end the holder
			return err
		}
	}
	if err := c.Stop(ctx); err != nil || c.rootless {
		return err
	}
	return newVeth(c.d, DefaultSubnet).close()
}
