// Package accounts reads users and groups from an image's /etc/passwd and /etc/group. The agent is
// a static binary that serves any image, so it can not ask the image's C library.
package accounts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is read: a line beyond maxLine ends the reading with an error, groups beyond
// maxGroups are left out, as the kernel takes no more (NGROUPS_MAX).
const (
	maxLine   = 64 << 10
	maxGroups = 65536
)

// ErrUnknown says that there is no such user or group.
var ErrUnknown = errors.New("not in the guest")

// User is one account with all that a process of it needs.
type User struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary, without GID
	Home   string
	Shell  string
}

// Lookup finds the user that spec names: "name", "uid", and either with ":group" or ":gid" for
// another main group. An empty spec is root. A number without an account is a user with home / and
// shell /bin/sh, as containers have them, and so is root in an image without a passwd file. etc is
// the folder of the files, /etc but for tests.
func Lookup(etc, spec string) (User, error) {
	name, group, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "root"
	}
	u, err := findUser(filepath.Join(etc, "passwd"), name)
	if err != nil {
		return User{}, err
	}
	if hasGroup {
		u.GID, err = findGroup(filepath.Join(etc, "group"), group)
		return u, err // as in a container, a chosen group is the only one
	}
	u.Groups, err = memberships(filepath.Join(etc, "group"), u)
	return u, err
}

func findUser(path, name string) (User, error) {
	uid, isNumber := parseID(name)
	found, err := User{}, ErrUnknown
	scanErr := eachLine(path, 7, func(f []string) bool {
		u, ok := parseUser(f)
		if !ok || u.Name != name && (!isNumber || u.UID != uid) {
			return true
		}
		found, err = u, nil
		return false
	})
	switch {
	case scanErr != nil && !errors.Is(scanErr, os.ErrNotExist):
		return User{}, scanErr
	case err == nil:
		return found, nil
	case name == "root":
		return User{Name: name, Home: "/root", Shell: "/bin/sh"}, nil
	case isNumber:
		return User{Name: name, UID: uid, Home: "/", Shell: "/bin/sh"}, nil
	}
	return User{}, fmt.Errorf("user %q: %w", name, err)
}

// parseUser reads name:password:uid:gid:gecos:home:shell, see passwd(5).
func parseUser(f []string) (User, bool) {
	uid, ok := parseID(f[2])
	gid, ok2 := parseID(f[3])
	if !ok || !ok2 || f[0] == "" {
		return User{}, false
	}
	u := User{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}
	if u.Home == "" {
		u.Home = "/"
	}
	if u.Shell == "" {
		u.Shell = "/bin/sh"
	}
	return u, true
}

func findGroup(path, name string) (uint32, error) {
	gid, isNumber := parseID(name)
	if isNumber {
		return gid, nil
	}
	found := false
	err := eachLine(path, 4, func(f []string) bool {
		if f[0] == name {
			gid, found = parseID(f[2])
		}
		return !found
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("group %q: %w", name, ErrUnknown)
	}
	return gid, nil
}

// memberships lists the groups whose member list, name:password:gid:a,b,c of group(5), has the
// user.
func memberships(path string, u User) ([]uint32, error) {
	var gids []uint32
	err := eachLine(path, 4, func(f []string) bool {
		gid, ok := parseID(f[2])
		if ok && gid != u.GID && !slices.Contains(gids, gid) && slices.Contains(strings.Split(f[3], ","), u.Name) {
			gids = append(gids, gid)
		}
		return len(gids) < maxGroups
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return gids, err
}

// eachLine calls do with the fields of each line that has as many as it should, until do returns
// false.
func eachLine(path string, fields int, do func([]string) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := scanLines(f, fields, do); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func scanLines(r io.Reader, fields int, do func([]string) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), maxLine)
	for lines.Scan() {
		if f := strings.Split(lines.Text(), ":"); len(f) == fields && !do(f) {
			return nil
		}
	}
	return lines.Err()
}

// parseID reads a decimal id; the highest one means "no id" to the kernel.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n < math.MaxUint32
}
