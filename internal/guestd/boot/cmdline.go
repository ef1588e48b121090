package boot

import (
	"fmt"
	"strings"
)

const (
	maxCmdlineBytes  = 64 << 10
	maxHostnameBytes = 64 // __NEW_UTS_LEN
)

// Cmdline is what the kernel command line tells banger-guest. Empty fields were not given.
type Cmdline struct {
	Hostname string // banger.hostname
	Image    string // banger.image: UUID of the image's file system, 32 hex digits, when its label is not LabelImage
	Modules  string // banger.modules: "none" when there is no such drive to wait for
	OwnRoot  bool   // banger.root=own: the image drive is this VM's alone, and its root as it is
	Network  Network
}

// ParseCmdline reads the keys "banger.*" of a kernel command line. Unknown keys are ignored, so that a newer host can
// boot an older guest; of a key given twice the last one counts, as for the kernel.
func ParseCmdline(line string) (Cmdline, error) {
	given := map[string]string{}
	for word := range strings.FieldsSeq(line) {
		if key, value, _ := strings.Cut(word, "="); strings.HasPrefix(key, "banger.") {
			given[key] = value
		}
	}
	c := Cmdline{Hostname: given["banger.hostname"]}
	if c.Hostname != "" && !validHostname(c.Hostname) {
		return Cmdline{}, fmt.Errorf("banger.hostname=%.80q: not a host name", c.Hostname)
	}
	if c.Image = given["banger.image"]; c.Image != "" && !validUUID(c.Image) {
		return Cmdline{}, fmt.Errorf("banger.image=%.80q: not a UUID", c.Image)
	}
	c.Modules = given["banger.modules"]
	switch root := given["banger.root"]; root {
	case "":
	case "own":
		c.OwnRoot = true
	default:
		return Cmdline{}, fmt.Errorf("banger.root=%.80q: not known", root)
	}
	var err error
	if c.Network, err = parseNetwork(given); err != nil {
		return Cmdline{}, err
	}
	return c, nil
}

// validUUID reports whether text is 32 lower-case hex digits.
func validUUID(text string) bool {
	return len(text) == 32 && strings.Trim(text, "0123456789abcdef") == ""
}

// validHostname reports whether name is a sequence of DNS labels that the kernel takes as its node name.
func validHostname(name string) bool { return len(name) <= maxHostnameBytes && validLabels(name) }

// validLabels reports whether name is a sequence of DNS labels, RFC 1123.
func validLabels(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}
