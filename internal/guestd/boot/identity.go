package boot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/smallfile"
)

func (s *state) writeIdentity(context.Context) error {
	etc, err := makeInRoot(newRoot, "/etc", 0o755)
	if err != nil {
		return err
	}
	if s.cmdline.Hostname != "" {
		if err := unix.Sethostname([]byte(s.cmdline.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		if err := writeHostname(etc, s.cmdline); err != nil {
			return err
		}
	}
	return writeMachineID(etc)
}

// writeHostname changes /etc/hostname and /etc/hosts where they say something else.
func writeHostname(etc string, c Cmdline) error {
	err := smallfile.Update(filepath.Join(etc, "hostname"), 0o644, func([]byte) []byte { return []byte(c.Hostname + "\n") })
	if err != nil {
		return fmt.Errorf("write host name: %w", err)
	}
	own := c.Network.ownHosts(c.Hostname)
	err = smallfile.Update(filepath.Join(etc, "hosts"), 0o644, func(old []byte) []byte { return hostsFor(old, own) })
	if err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	return nil
}

// hostsMark ends the VM's own lines in /etc/hosts, by which a later boot finds them when address or name have changed.
const hostsMark = "# banger"

// hostsFor gives the hosts file in which own are the lines of the machine itself, in place of those of an earlier boot, or
// of the one of 127.0.1.1, which Debian keeps for this. All other lines stay.
func hostsFor(old []byte, own []string) []byte {
	var out bytes.Buffer
	if len(old) == 0 {
		out.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	writeOwn := func() {
		for _, line := range own {
			fmt.Fprintf(&out, "%s\t%s\n", line, hostsMark)
		}
	}
	found := false
	for line := range bytes.Lines(old) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		fields := bytes.Fields(line)
		if bytes.HasSuffix(line, []byte(hostsMark)) || len(fields) > 0 && string(fields[0]) == "127.0.1.1" {
			if !found {
				writeOwn()
			}
			found = true
			continue
		}
		out.Write(line)
		out.WriteByte('\n')
	}
	if !found {
		writeOwn()
	}
	return out.Bytes()
}

// writeMachineID gives a VM an id of its own where the image holds none. With one in place systemd does not take each
// new VM for a first boot, which would apply unit presets anew.
func writeMachineID(etc string) error {
	err := smallfile.Update(filepath.Join(etc, "machine-id"), 0o444, func(old []byte) []byte {
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
