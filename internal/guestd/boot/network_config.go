package boot

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const (
	maxNameservers = 3  // MAXNS of resolv.conf(5): a resolver reads no more
	minPrefix      = 8  // no subnet is larger than 10.0.0.0/8
	maxPrefix      = 30 // the smallest subnet with room for a gateway
	minPrefix6     = 64 // what an IPv6 network has at most: addresses are given by hand, so it may be smaller
	maxPrefix6     = 126
	minMTU, maxMTU = 68, 65535
	maxSearchBytes = 253 // of a DNS name, RFC 1035
)

// Network is the static configuration of the VM's one network card. The zero value is a VM with the loopback interface
// only.
type Network struct {
	Address     netip.Prefix // banger.address: the VM's own, with the prefix length of its subnet
	Gateway     netip.Addr   // banger.gateway: in that subnet; zero for no default route
	Address6    netip.Prefix // banger.address6: as Address, IPv6; zero for none
	Gateway6    netip.Addr   // banger.gateway6: as Gateway; zero when nothing beyond the subnet is reached by IPv6
	Nameservers []netip.Addr // banger.dns, comma-separated IPv4 addresses; none leaves resolv.conf alone
	Search      string       // banger.search: the domain of short names; empty for none
	MTU         int          // banger.mtu in bytes; 0 keeps the card's
}

// parseNetwork reads the values of the keys "banger.*" that concern the network.
func parseNetwork(given map[string]string) (Network, error) {
	var n Network
	fields := []struct {
		key   string
		parse func(value string) error
	}{
		{"banger.address", func(v string) (err error) { n.Address, err = parseAddress(v); return err }},
		{"banger.gateway", func(v string) (err error) { n.Gateway, err = parseHost(v); return err }},
		{"banger.address6", func(v string) (err error) { n.Address6, err = parseAddress6(v); return err }},
		{"banger.gateway6", func(v string) (err error) { n.Gateway6, err = parseHost6(v); return err }},
		{"banger.dns", func(v string) (err error) { n.Nameservers, err = parseNameservers(v); return err }},
		{"banger.search", func(v string) (err error) { n.Search, err = parseSearch(v); return err }},
		{"banger.mtu", func(v string) (err error) { n.MTU, err = parseMTU(v); return err }},
	}
	for _, f := range fields {
		value, ok := given[f.key]
		if !ok {
			continue
		}
		if _, ok := given["banger.address"]; !ok {
			return Network{}, fmt.Errorf("%s: given without banger.address", f.key)
		}
		if err := f.parse(value); err != nil {
			return Network{}, fmt.Errorf("%s=%.80q: %w", f.key, value, err)
		}
	}
	if err := checkGateway("banger.gateway", n.Gateway, n.Address); err != nil {
		return Network{}, err
	}
	if err := checkGateway("banger.gateway6", n.Gateway6, n.Address6); err != nil {
		return Network{}, err
	}
	return n, nil
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
	if len(value) > maxSearchBytes || !validLabels(value) {
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
