package image

import (
	"bufio"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/hostinfo"
)

// subordinateIDs is how many ids a build needs beside the user's own: Debian's "nobody" is 65534.
const subordinateIDs = 65536

// CheckHost reports what this host lacks for building images as the user that runs this process; nil means nothing.
func CheckHost() error {
	if _, err := hostinfo.FindTool("mmdebstrap", "mmdebstrap"); err != nil {
		return err
	}
	uid := os.Getuid()
	if uid == 0 {
		return nil
	}
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := hostinfo.FindTool(tool, "uidmap"); err != nil {
			return err
		}
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return fmt.Errorf("look up user: %w", err)
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		text, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if !hasSubordinateIDs(string(text), u.Username, u.Uid) {
			return api.Errorf(api.CodeUnsupported, "building an image as user %s needs subordinate ids, and %s has none", u.Username, path).
				WithHint("once, as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", u.Username)
		}
	}
	return nil
}

// hasSubordinateIDs reports whether subuid(5) text gives the user enough ids in one range.
func hasSubordinateIDs(text, name, uid string) bool {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || fields[0] != name && fields[0] != uid {
			continue
		}
		if count, err := strconv.ParseInt(fields[2], 10, 64); err == nil && count >= subordinateIDs {
			return true
		}
	}
	return false
}
