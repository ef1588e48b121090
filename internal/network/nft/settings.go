package nft

import (
	"fmt"
	"net"
	"net/netip"
	"os"
)

// Settings6 is where the kernel has its settings of IPv6.
const Settings6 = "/proc/sys/net/ipv6/conf/"

// HasIPv6 reports whether the kernel does.
func HasIPv6() bool {
	_, err := os.Stat(Settings6)
	return err == nil
}

// Set6 writes a setting of IPv6, INTERFACE/NAME.
func Set6(name, value string) error {
	if err := os.WriteFile(Settings6+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set IPv6 %s to %s: %w", name, value, err)
	}
	return nil
}

// IPNet is a network as netlink has it.
func IPNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

// HostNet is the network of one address.
func HostNet(a netip.Addr) *net.IPNet { return IPNet(a, a.BitLen()) }
