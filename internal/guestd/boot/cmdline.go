package boot

import (
	"fmt"
	"strings"

	"banger/internal/guestd/identity"
	"banger/internal/guestd/netcfg"
)

const (
	maxCmdlineBytes = 64 << 10
	keyPrefix       = "banger."
)

// Cmdline is what the kernel command line tells banger-guest. Empty fields were not given.
type Cmdline struct {
	Identity identity.Spec // banger.hostname
	Image    string        // banger.image: UUID of the image's file system, 32 hex digits; empty for LabelImage
	Modules  string        // banger.modules: "none" when there is no such drive to wait for
	OwnRoot  bool          // banger.root=own: the image drive is this VM's alone, and its root as it is
	Network  netcfg.Config // banger.address and the other keys of netcfg.Parse
}

// ParseCmdline reads the keys "banger.*" of a kernel command line. Unknown keys are ignored, so
// that a newer host can boot an older guest; of a key given twice the last one counts, as for the
// kernel.
func ParseCmdline(line string) (Cmdline, error) {
	given := map[string]string{}
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		if key, ours := strings.CutPrefix(key, keyPrefix); ours {
			given[key] = value
		}
	}
	c := Cmdline{Identity: identity.Spec{Hostname: given["hostname"]}}
	if err := c.Identity.Check(); err != nil {
		return Cmdline{}, fmt.Errorf("banger.hostname=%w", err)
	}
	if c.Image = given["image"]; c.Image != "" && !validUUID(c.Image) {
		return Cmdline{}, fmt.Errorf("banger.image=%.80q: not a UUID", c.Image)
	}
	c.Modules = given["modules"]
	switch root := given["root"]; root {
	case "":
	case "own":
		c.OwnRoot = true
	default:
		return Cmdline{}, fmt.Errorf("banger.root=%.80q: not known", root)
	}
	network, err := netcfg.Parse(given)
	if err != nil {
		return Cmdline{}, fmt.Errorf("%s%w", keyPrefix, err)
	}
	c.Network = network
	return c, nil
}

// validUUID reports whether text is 32 lower-case hex digits.
func validUUID(text string) bool {
	return len(text) == 32 && strings.Trim(text, "0123456789abcdef") == ""
}
