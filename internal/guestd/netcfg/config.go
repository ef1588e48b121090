package netcfg

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

const (
	macBytes       = 6
	maxNameservers = 3  // MAXNS of resolv.conf(5): a resolver reads no more
	minPrefix      = 8  // no subnet is larger than 10.0.0.0/8
	maxPrefix      = 30 // the smallest subnet with room for a gateway
	minPrefix6     = 64 // what an IPv6 network has at most: addresses are given by hand, so it may be smaller
	maxPrefix6     = 126
	minMTU, maxMTU = 68, 65535
	maxSearchBytes = 253 // of a DNS name, RFC 1035
)

// Config is the static configuration of the machine's one network card. The zero value is a machine
// with the loopback interface only.
type Config struct {
	MAC         net.HardwareAddr // empty keeps the card's
	Address     netip.Prefix     // the machine's own, with the prefix length of its subnet
	Gateway     netip.Addr       // in that subnet; zero for no default route
	Address6    netip.Prefix     // as Address, IPv6; zero for none
	Gateway6    netip.Addr       // as Gateway; zero when nothing beyond the subnet is reached by IPv6
	Nameservers []netip.Addr     // IPv4; none leaves resolv.conf alone
	Search      string           // the domain of short names; empty for none
	MTU         int              // in bytes; 0 keeps the card's
}

// Keys of what Parse reads, as the kernel command line has them behind "banger.".
const (
	KeyMAC         = "mac"
	KeyAddress     = "address"
	KeyGateway     = "gateway"
	KeyAddress6    = "address6"
	KeyGateway6    = "gateway6"
	KeyNameservers = "dns" // separated by commas
	KeySearch      = "search"
	KeyMTU         = "mtu"
)

// Parse reads and checks the values that were given, by key; other keys are not its own. Its errors
// begin with the key.
func Parse(given map[string]string) (Config, error) {
	var c Config
	fields := []struct {
		key   string
		parse func(value string) error
	}{
		{KeyMAC, func(v string) (err error) { c.MAC, err = parseMAC(v); return err }},
		{KeyAddress, func(v string) (err error) { c.Address, err = parseAddress(v); return err }},
		{KeyGateway, func(v string) (err error) { c.Gateway, err = parseHost(v); return err }},
		{KeyAddress6, func(v string) (err error) { c.Address6, err = parseAddress6(v); return err }},
		{KeyGateway6, func(v string) (err error) { c.Gateway6, err = parseHost6(v); return err }},
		{KeyNameservers, func(v string) (err error) { c.Nameservers, err = parseNameservers(v); return err }},
		{KeySearch, func(v string) (err error) { c.Search, err = parseSearch(v); return err }},
		{KeyMTU, func(v string) (err error) { c.MTU, err = parseMTU(v); return err }},
	}
	for _, f := range fields {
		value, ok := given[f.key]
		if !ok {
			continue
		}
		if _, ok := given[KeyAddress]; !ok {
			return Config{}, fmt.Errorf("%s: given without an address", f.key)
		}
		if err := f.parse(value); err != nil {
			return Config{}, fmt.Errorf("%s=%.80q: %w", f.key, value, err)
		}
	}
	if err := checkGateway(KeyGateway, c.Gateway, c.Address); err != nil {
		return Config{}, err
	}
	if err := checkGateway(KeyGateway6, c.Gateway6, c.Address6); err != nil {
		return Config{}, err
	}
	return c, nil
}

func checkGateway(key string, gateway netip.Addr, own netip.Prefix) error {
	switch {
	case gateway.IsValid() && !own.IsValid():
		return fmt.Errorf("%s=%s: given without an address", key, gateway)
	case gateway.IsValid() && (!own.Contains(gateway) || gateway == own.Addr()):
		return fmt.Errorf("%s=%s: not another host of %s", key, gateway, own.Masked())
	}
	return nil
}

// parseMAC wants the address of one card, not of a group (IEEE 802, bit 0) and not the one that
// stands for none.
func parseMAC(value string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(value)
	if err != nil || len(mac) != macBytes || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, macBytes)) {
		return nil, errors.New("not the MAC of a card")
	}
	return mac, nil
}

func parseAddress(value string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(value)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, errors.New("not an IPv4 address with a prefix length")
	}
	if p.Bits() < minPrefix || p.Bits() > maxPrefix {
		return netip.Prefix{}, fmt.Errorf("prefix length not %d to %d", minPrefix, maxPrefix)
	}
	// The first and the last address of a subnet are nobody's: they name it, and all its hosts.
	if !p.Contains(p.Addr().Prev()) || !p.Contains(p.Addr().Next()) || !isHost(p.Addr()) {
		return netip.Prefix{}, errors.New("not the address of a host")
	}
	return p, nil
}

func parseHost(value string) (netip.Addr, error) {
	a, err := netip.ParseAddr(value)
	if err != nil || !a.Is4() || !isHost(a) {
		return netip.Addr{}, errors.New("not the IPv4 address of a host")
	}
	return a, nil
}

func parseAddress6(value string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(value)
	if err != nil || !isHost6(p.Addr()) {
		return netip.Prefix{}, errors.New("not the IPv6 address of a host with a prefix length")
	}
	if p.Bits() < minPrefix6 || p.Bits() > maxPrefix6 {
		return netip.Prefix{}, fmt.Errorf("prefix length not %d to %d", minPrefix6, maxPrefix6)
	}
	if p == p.Masked() { // that of all its routers (RFC 4291, 2.6.1)
		return netip.Prefix{}, errors.New("not the address of a host")
	}
	return p, nil
}

func parseHost6(value string) (netip.Addr, error) {
	a, err := netip.ParseAddr(value)
	if err != nil || !isHost6(a) {
		return netip.Addr{}, errors.New("not the IPv6 address of a host")
	}
	return a, nil
}

// isHost6 reports whether an address is one by which a host is known beyond its link.
func isHost6(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.Zone() == "" && a.IsGlobalUnicast()
}

// isHost reports whether a host on a network can have the address.
func isHost(a netip.Addr) bool {
	return a.IsGlobalUnicast() && a.As4()[0] != 0 && a.As4()[0] < 240
}

func parseNameservers(value string) ([]netip.Addr, error) {
	var servers []netip.Addr
	for one := range strings.SplitSeq(value, ",") {
		a, err := parseHost(one)
		if err != nil {
			return nil, err
		}
		if len(servers) == maxNameservers {
			return nil, fmt.Errorf("more than %d name servers", maxNameservers)
		}
		servers = append(servers, a)
	}
	return servers, nil
}

func parseSearch(value string) (string, error) {
	if len(value) > maxSearchBytes || !IsDomain(value) {
		return "", errors.New("not a domain")
	}
	return value, nil
}

func parseMTU(value string) (int, error) {
	mtu, err := strconv.ParseUint(value, 10, 16)
	if err != nil || mtu < minMTU || mtu > maxMTU {
		return 0, fmt.Errorf("not %d to %d", minMTU, maxMTU)
	}
	return int(mtu), nil
}

// IsDomain reports whether name is a sequence of DNS labels, RFC 1123.
func IsDomain(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}
