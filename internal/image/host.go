package image

import (
	"banger/internal/hostinfo"
)

// CheckHost reports what this host lacks for building images as the user that runs this process;
// nil means nothing.
func CheckHost() error {
	if _, err := hostinfo.FindTool("mmdebstrap", "mmdebstrap"); err != nil {
		return err
	}
	return hostinfo.CheckIDMaps()
}
