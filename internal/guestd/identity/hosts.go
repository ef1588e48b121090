package identity

import (
	"bytes"
	"fmt"
	"strings"

	"banger/internal/guestd/netcfg"
)

// hostsMark ends the VM's own lines in /etc/hosts, by which a later boot finds them when address or
// name have changed.
const hostsMark = "# banger"

// hostsFor gives the hosts file in which own are the lines of the machine itself, in place of those
// of an earlier boot, or of the one of 127.0.1.1, which Debian keeps for this. All other lines
// stay.
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

// ownNames are the names of a VM in /etc/hosts, the full one first, which makes it the answer of
// hostname -f.
func ownNames(hostname, search string) string {
	short, _, full := strings.Cut(hostname, ".")
	switch {
	case full:
		return hostname + " " + short
	case search != "":
		return hostname + "." + search + " " + hostname
	}
	return hostname
}

// ownHosts are the lines of a VM for itself in /etc/hosts: at its addresses, or without a network
// at 127.0.1.1, which Debian keeps for that.
func ownHosts(hostname string, network netcfg.Config) []string {
	addresses := []string{"127.0.1.1"}
	if network.Address.IsValid() {
		addresses = []string{network.Address.Addr().String()}
	}
	if network.Address6.IsValid() {
		addresses = append(addresses, network.Address6.Addr().String())
	}
	for i, a := range addresses {
		addresses[i] = a + "\t" + ownNames(hostname, network.Search)
	}
	return addresses
}
