package network

import "os"

// Running reports whether a keeper serves the home.
func (c *Client) Running() (bool, error) { return c.held() }

// Exists reports whether anything of a network may be there, also one whose keeper has died.
func (c *Client) Exists() bool {
	_, err := os.Lstat(c.d.holderSocket())
	return err == nil
}
