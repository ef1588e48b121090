package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// CheckSubnet reports why a prefix cannot be the VMs' subnet: it must be a masked IPv4 prefix of 8
// to 28 bits.
func CheckSubnet(subnet netip.Prefix) error {
	if !subnet.IsValid() || !subnet.Addr().Is4() || subnet != subnet.Masked() || subnet.Bits() < 8 ||
		subnet.Bits() > 28 {
		return fmt.Errorf("subnet %s must be an IPv4 network such as %s, between /8 and /28", subnet, DefaultSubnet)
	}
	return nil
}

// Gateway returns the first address of a subnet, which the bridge and the DNS server have.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Addr().Next() }

// HostEnd returns the host's address on a veth uplink, the last usable one of the subnet. It is
// reserved with pasta too.
func HostEnd(subnet netip.Prefix) netip.Addr { return fromTop(subnet, 1) }

// UplinkEnd returns the namespace's address on a veth uplink.
func UplinkEnd(subnet netip.Prefix) netip.Addr { return fromTop(subnet, 2) }

// fromTop returns the nth address below the broadcast address.
func fromTop(subnet netip.Prefix, n uint32) netip.Addr {
	base := subnet.Addr().As4()
	broadcast := binary.BigEndian.Uint32(base[:]) | (1<<(32-subnet.Bits()) - 1)
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, broadcast-n)))
}

// usable reports whether a VM may have the address: one of the subnet, between the gateway and the
// uplink's two.
func usable(subnet netip.Prefix, a netip.Addr) bool {
	return a.Is4() && subnet.Contains(a) && Gateway(subnet).Less(a) && a.Less(UplinkEnd(subnet))
}

// NextAddress returns the lowest address of the subnet that a VM may have and none has, or an error
// when all are taken.
func NextAddress(subnet netip.Prefix, taken map[netip.Addr]bool) (netip.Addr, error) {
	for a := Gateway(subnet).Next(); usable(subnet, a); a = a.Next() {
		if !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("find address in %s: all are taken", subnet)
}

// prefix6 is where IPv6 addresses of VMs are: a unique local prefix (RFC 4193) whose global ID is
// the letters "bange". The last 32 bits are the IPv4 address, so an IPv6 address is leased, checked
// and freed with that, and as unique.
var prefix6 = netip.MustParsePrefix("fd62:616e:6765::/96")

// Address6 returns the IPv6 address that goes with an IPv4 one.
func Address6(a netip.Addr) netip.Addr {
	bytes, last := prefix6.Addr().As16(), a.As4()
	copy(bytes[12:], last[:])
	return netip.AddrFrom16(bytes)
}

// Subnet6 returns the IPv6 network that goes with a subnet. Its addresses are set by hand, so it
// need not be a /64.
func Subnet6(subnet netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(Address6(subnet.Addr()), prefix6.Bits()+subnet.Bits())
}

// LinkLocal returns the address that a guest's kernel makes of its card's MAC (RFC 4291, appendix
// A).
func LinkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}

// MAC returns the address of an interface from its IPv4 address: 02:00 and the four bytes, so it is
// locally administered, and as unique in the network as the address is.
func MAC(a netip.Addr) string {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x00, b[0], b[1], b[2], b[3]}.String()
}
