package relay

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// flow is a TCP connection of a VM to the world.
type flow struct {
	vm, remote netip.AddrPort
}

// parseSYN reads the addresses of a packet that opens a TCP connection (RFC 791, RFC 8200, RFC
// 9293). The packet is a guest's; the rules have seen its flags, and that it comes from its own
// address.
func parseSYN(packet []byte) (flow, bool) {
	if len(packet) < 1 {
		return flow{}, false
	}
	var source, destination netip.Addr
	var segment []byte
	switch packet[0] >> 4 {
	case 4:
		header := int(packet[0]&0xf) * 4
		if header < 20 || len(packet) < header || packet[9] != unix.IPPROTO_TCP {
			return flow{}, false
		}
		source, destination = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
		segment = packet[header:]
	case 6:
		const header = 40
		if len(packet) < header || packet[6] != unix.IPPROTO_TCP { // one with extension headers no guest sends
			return flow{}, false
		}
		source, destination = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
		segment = packet[header:]
	}
	if len(segment) < 20 {
		return flow{}, false
	}
	from, to := binary.BigEndian.Uint16(segment), binary.BigEndian.Uint16(segment[2:])
	return flow{netip.AddrPortFrom(source, from), netip.AddrPortFrom(destination, to)}, true
}
