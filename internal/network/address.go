package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// CheckSubnet reports why a prefix cannot be the VMs' subnet: it must be a masked IPv4 prefix of 8 to 28 bits.
func CheckSubnet(subnet netip.Prefix) error {
	if !subnet.IsValid() || !subnet.Addr().Is4() || subnet != subnet.Masked() || subnet.Bits() < 8 || subnet.Bits() > 28 {
		return fmt.Errorf("subnet %s must be an IPv4 network such as %s, between /8 and /28", subnet, DefaultSubnet)
	}
	return nil
}

// Gateway returns the first address of a subnet, which the bridge and the DNS server have.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Addr().Next() }

// hostEnd returns the host's address on a veth uplink, the last usable one of the subnet. It is reserved with pasta too.
func hostEnd(subnet netip.Prefix) netip.Addr { return fromTop(subnet, 1) }

// uplinkEnd returns the namespace's address on a veth uplink.
func uplinkEnd(subnet netip.Prefix) netip.Addr { return fromTop(subnet, 2) }

// fromTop returns the nth address below the broadcast address.
func fromTop(subnet netip.Prefix, n uint32) netip.Addr {
	base := subnet.Addr().As4()
	broadcast := binary.BigEndian.Uint32(base[:]) | (1<<(32-subnet.Bits()) - 1)
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, broadcast-n)))
}

// usable reports whether a VM may have the address: one of the subnet, between the gateway and the uplink's two.
func usable(subnet netip.Prefix, a netip.Addr) bool {
	return a.Is4() && subnet.Contains(a) && Gateway(subnet).Less(a) && a.Less(uplinkEnd(subnet))
}

// NextAddress returns the lowest address of the subnet that a VM may have and none has, or an error when all are taken.
func NextAddress(subnet netip.Prefix, taken map[netip.Addr]bool) (netip.Addr, error) {
	for a := Gateway(subnet).Next(); usable(subnet, a); a = a.Next() {
		if !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("find address in %s: all are taken", subnet)
}

// MAC returns the address of an interface from its IPv4 address: 02:00 and the four bytes, so it is locally administered,
// and as unique in the network as the address is.
func MAC(a netip.Addr) string {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x00, b[0], b[1], b[2], b[3]}.String()
}
