package network

import (
	"os"
)

// Running reports whether a keeper serves the home.
func (c *Client) Running() (bool, error) { return c.held() }

// Exists reports whether anything of a network may be there, also one whose keeper has died.
func (c *Client) Exists() bool {
	_, err := os.Lstat(c.d.HolderSocket())
	return err == nil
}

// Dir is the folder of the network's files.
func (c *Client) Dir() Dir { return c.d }

// Rootless reports whether the network is an ordinary user's.
func (c *Client) Rootless() bool { return c.rootless }
