package hostinfo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"banger/api"
)

// subordinateIDs is how many ids a build needs beside the user's own: Debian's "nobody" is 65534.
const subordinateIDs = 65536

// CheckIDMaps says what keeps the user of this process from a user namespace with a whole range of
// ids, in which mmdebstrap builds images; nil for nothing, and for root, who needs none.
func CheckIDMaps() error {
	if os.Getuid() == 0 {
		return nil
	}
	u, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if err != nil {
		return fmt.Errorf("look up user: %w", err)
	}
	return checkIDMaps(u.Username, "/etc")
}

// checkIDMaps is CheckIDMaps of a user whose ranges stand in a folder.
func checkIDMaps(name, etc string) error {
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := FindTool(tool, "uidmap"); err != nil {
			return err
		}
	}
	for _, file := range []string{"subuid", "subgid"} {
		path := filepath.Join(etc, file)
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := checkRange(name, path, string(text)); err != nil {
			return err
		}
	}
	return nil
}

// checkRange looks at the text of subuid(5) or subgid(5). It goes by what mmdebstrap (1.3 and 1.5)
// reads of it: the first line that begins with the user's name. Ranges further down, and lines by
// the user's number, which newuidmap would allow, help no build.
func checkRange(name, path, text string) error {
	const needed = "building images needs a range of %d ids, and "
	for line := range strings.Lines(text) {
		owner, ids, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		if owner != name {
			continue
		}
		first, count, _ := strings.Cut(ids, ":")
		_, firstErr := strconv.ParseUint(first, 10, 32)
		n, countErr := strconv.ParseUint(strings.TrimSpace(count), 10, 32)
		if firstErr == nil && countErr == nil && n >= subordinateIDs {
			return nil
		}
		return api.Errorf(api.CodeUnsupported, needed+"the first line of user %s in %s is %.100q",
			subordinateIDs, name, path, strings.TrimSpace(line)).
			WithHint("as root, make that line %s:100000:%d, or a range that nobody else has", name, subordinateIDs)
	}
	return api.Errorf(api.CodeUnsupported, needed+"user %s has none in %s", subordinateIDs, name, path).
		WithHint("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", name)
}

// CheckNamespaces says what keeps the kernel from letting ordinary users have namespaces at all. A
// program may be excepted from it, so only the doctor asks.
func CheckNamespaces() error { return checkNamespaces("/proc/sys") }

func checkNamespaces(sys string) error {
	for _, limit := range []struct{ name, bad, good string }{
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "0"},
		{"kernel/unprivileged_userns_clone", "0", "1"},
		{"user/max_user_namespaces", "0", "10000"},
	} {
		value, err := os.ReadFile(filepath.Join(sys, limit.name))
		if err == nil && strings.TrimSpace(string(value)) == limit.bad {
			key := strings.ReplaceAll(limit.name, "/", ".")
			return api.Errorf(api.CodeUnsupported, "%s is %s: users may have no namespaces", key, limit.bad).
				WithHint("sudo sysctl -w %s=%s", key, limit.good)
		}
	}
	return nil
}
