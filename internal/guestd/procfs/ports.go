package procfs

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Socket states in /proc/net, see the kernel's include/net/tcp_states.h: a listening TCP socket,
// and a UDP one without a peer.
const (
	stateListen = "0A"
	stateClose  = "07"
)

// Port is a socket that waits for peers.
type Port struct {
	Network string // tcp, tcp6, udp, udp6
	Address netip.AddrPort
	Inode   uint64
	PID     int    // 0 when the owner is not known
	Process string // its name
}

// Ports lists what listens, at most max, ordered by network and port, with the process that holds
// each socket.
func Ports(proc string, max int) ([]Port, error) {
	var ports []Port
	for _, network := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := readFile(proc, "net/"+network)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		some, err := parsePorts(network, b)
		if err != nil {
			return nil, err
		}
		ports = append(ports, some...)
	}
	ports = ports[:min(len(ports), max)]
	if err := findOwners(proc, ports); err != nil {
		return nil, err
	}
	slices.SortFunc(ports, func(a, b Port) int {
		byPort := cmp.Compare(a.Address.Port(), b.Address.Port())
		return cmp.Or(cmp.Compare(a.Network, b.Network), byPort, a.Address.Compare(b.Address))
	})
	return ports, nil
}

// parsePorts reads a table of /proc/net, see proc_pid_net(5): after a heading, lines of
// "sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...".
func parsePorts(network string, table []byte) ([]Port, error) {
	waiting := stateListen
	if strings.HasPrefix(network, "udp") {
		waiting = stateClose
	}
	var ports []Port
	first := true
	for line := range bytes.Lines(table) {
		if first {
			first = false
			continue
		}
		fields := strings.Fields(string(line))
		if len(fields) < 10 || fields[3] != waiting {
			continue
		}
		addr, err := parseAddress(fields[1])
		if err != nil {
			return nil, fmt.Errorf("parse net/%s: %w", network, err)
		}
		inode, err := strconv.ParseUint(fields[9], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse net/%s: %w", network, err)
		}
		ports = append(ports, Port{Network: network, Address: addr, Inode: inode})
	}
	return ports, nil
}

// parseAddress reads "0100007F:0016": 32-bit words in the byte order of the machine, little-endian
// wherever banger runs.
func parseAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %.60q", s)
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %.60q", s)
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(n)), nil
}

// findOwners looks for each socket among the open files of all processes. Processes come and go
// meanwhile: what can not be read is passed over.
func findOwners(proc string, ports []Port) error {
	owner := make(map[string]int, len(ports))
	for i, p := range ports {
		owner[fmt.Sprintf("socket:[%d]", p.Inode)] = i
	}
	pids, err := PIDs(proc)
	if err != nil {
		return err
	}
	slices.Sort(pids) // of processes sharing a socket, the oldest
	for _, pid := range pids {
		if len(owner) == 0 {
			break
		}
		links, _ := filepath.Glob(filepath.Join(proc, strconv.Itoa(pid), "fd", "*"))
		for _, link := range links {
			target, err := os.Readlink(link)
			if err != nil {
				continue
			}
			if i, ok := owner[target]; ok {
				delete(owner, target)
				ports[i].PID = pid
				if p, err := ReadProcess(proc, pid); err == nil {
					ports[i].Process = p.Name
				}
			}
		}
	}
	return nil
}
