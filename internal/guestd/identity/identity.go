// Package identity gives a guest its name and its machine-id: what the kernel answers to uname, and
// the files of /etc that say who the machine is. The boot does so before the image's init runs, the
// agent again in a machine that was made of another one's memory.
package identity

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/netcfg"
	"banger/internal/guestd/smallfile"
)

const maxHostnameBytes = 64 // __NEW_UTS_LEN

// Spec is who a machine is.
type Spec struct {
	Hostname  string // empty leaves the name alone
	MachineID string // 32 lower-case hex digits; empty keeps what is there, or makes one where none is
}

// Check refuses what the kernel would not take, or what a file's reader would take for something
// else.
func (s Spec) Check() error {
	if s.Hostname != "" && (len(s.Hostname) > maxHostnameBytes || !netcfg.IsDomain(s.Hostname)) {
		return fmt.Errorf("%.80q: not a host name", s.Hostname)
	}
	if s.MachineID != "" && !isMachineID(s.MachineID) {
		return fmt.Errorf("%.80q: not a machine-id", s.MachineID)
	}
	return nil
}

// isMachineID reports whether text is an id of machine-id(5), which all zeros is not.
func isMachineID(text string) bool {
	return len(text) == 32 && strings.Trim(text, "0123456789abcdef") == "" && strings.Trim(text, "0") != ""
}

// Apply makes the machine the one of s, whose network is the other one's: its addresses stand
// beside the name in /etc/hosts. etc is /etc, but below the new root while that is not the root
// yet. It can be repeated, and leaves alone which says the same already.
func Apply(etc string, s Spec, network netcfg.Config) error {
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	return writeFiles(etc, s, network)
}

func writeFiles(etc string, s Spec, network netcfg.Config) error {
	if s.Hostname != "" {
		if err := writeHostname(etc, s.Hostname, network); err != nil {
			return err
		}
	}
	return writeMachineID(etc, s.MachineID)
}

// writeHostname changes /etc/hostname and /etc/hosts where they say something else.
func writeHostname(etc, hostname string, network netcfg.Config) error {
	err := smallfile.Update(filepath.Join(etc, "hostname"), 0o644, func([]byte) []byte { return []byte(hostname + "\n") })
	if err != nil {
		return fmt.Errorf("write host name: %w", err)
	}
	own := ownHosts(hostname, network)
	err = smallfile.Update(filepath.Join(etc, "hosts"), 0o644, func(old []byte) []byte { return hostsFor(old, own) })
	if err != nil && !errors.Is(err, smallfile.ErrTooLong) { // a machine without lines for itself is better than none
		return fmt.Errorf("write hosts: %w", err)
	}
	return nil
}

// writeMachineID gives a machine an id of its own where the image holds none, or the one that it is
// told to have. With one in place systemd does not take each new machine for a first boot, which
// would apply unit presets anew.
func writeMachineID(etc, want string) error {
	err := smallfile.Update(filepath.Join(etc, "machine-id"), 0o444, func(old []byte) []byte {
		if want != "" {
			return []byte(want + "\n")
		}
		if id := strings.TrimSpace(string(old)); id != "" && id != "uninitialized" {
			return old
		}
		var id [16]byte
		rand.Read(id[:])                                // never fails: crypto/rand ends the program instead
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a UUID of version 4, as machine-id(5) asks for
		return []byte(hex.EncodeToString(id[:]) + "\n")
	})
	if err != nil {
		return fmt.Errorf("write machine-id: %w", err)
	}
	return nil
}
