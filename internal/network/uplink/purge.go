package uplink

import (
	"context"

	"banger/internal/network"
)

// Purge takes down whatever there is of a network, also what killed processes left. VMs must have
// ended. It is idempotent.
func Purge(ctx context.Context, c *network.Client) error {
	held, err := c.Running()
	if err != nil {
		return err
	}
	if !held && c.Exists() {
		if err := c.Ensure(ctx); err != nil { // it knows how to find and end the holder
			return err
		}
	}
	if err := c.Stop(ctx); err != nil || c.Rootless() {
		return err
	}
	return newVeth(c.Dir(), network.DefaultSubnet).Close()
}
