package netcfg

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// verb is one kind of change to what the kernel has.
type verb string

const (
	giveAddress   verb = "give address"
	removeAddress verb = "remove address"
	addGateway    verb = "route by"
	removeGateway verb = "stop to route by"
)

// change is one step from what the card has to what it should have. The verbs of addresses use the
// one field, those of gateways the other.
type change struct {
	verb    verb
	address netip.Prefix
	gateway netip.Addr
}

func (c change) String() string {
	if c.address.IsValid() {
		return fmt.Sprintf("%s %s", c.verb, c.address)
	}
	return fmt.Sprintf("%s %s", c.verb, c.gateway)
}

// state is what the kernel says of the card.
type state struct {
	mac       net.HardwareAddr
	ipv6      bool           // whether the card has it
	addresses []netip.Prefix // of both families, link-local ones too
	gateways  []netip.Addr   // of the default routes by the card that have the metric of ours
	foreign4  bool           // a default route by something else has that metric, so that ours has no room
	foreign6  bool
}

// plan lists the changes from now to want. What earlier configurations gave and want does not is
// removed; all else that the card has is somebody's own and stays. The link's own settings are
// want's already.
//
// The order keeps what others added. Linux drops every route of a card when its last IPv4 address
// goes, so IPv4 gives first. An IPv6 address is there once, whatever its prefix, so IPv6 removes
// first.
func plan(now state, earlier []Config, want Config) []change {
	wanted := wantedAddresses(now, earlier, want)
	stale := staleAddresses(now, earlier, wanted)
	var changes []change
	for _, a := range stale {
		if a.Addr().Is6() {
			changes = append(changes, change{verb: removeAddress, address: a})
		}
	}
	for _, a := range wanted {
		if !slices.Contains(now.addresses, a) {
			changes = append(changes, change{verb: giveAddress, address: a})
		}
	}
	changes = append(changes, planGateways(now, earlier, want)...)
	for _, a := range stale {
		if a.Addr().Is4() {
			changes = append(changes, change{verb: removeAddress, address: a})
		}
	}
	return changes
}

// wantedAddresses are the addresses that the card should have. The link-local one is the kernel's
// affair until the card gets another MAC: of that the kernel makes none while the link is up, and
// the host lets no other one through.
func wantedAddresses(now state, earlier []Config, want Config) []netip.Prefix {
	var wanted []netip.Prefix
	if want.Address.IsValid() {
		wanted = append(wanted, want.Address)
	}
	if !now.ipv6 {
		return wanted
	}
	renamed := func(c Config) bool { return len(c.MAC) > 0 && !bytes.Equal(c.MAC, now.mac) }
	if slices.ContainsFunc(earlier, renamed) {
		wanted = append(wanted, linkLocal(now.mac))
	}
	if want.Address6.IsValid() {
		wanted = append(wanted, want.Address6)
	}
	return wanted
}

// staleAddresses are those of earlier configurations that the card still has and should not.
func staleAddresses(now state, earlier []Config, wanted []netip.Prefix) []netip.Prefix {
	var stale []netip.Prefix
	for _, c := range earlier {
		given := []netip.Prefix{c.Address, c.Address6}
		if len(c.MAC) > 0 && !bytes.Equal(c.MAC, now.mac) {
			given = append(given, linkLocal(c.MAC))
		}
		for _, a := range given {
			if slices.Contains(now.addresses, a) && !slices.Contains(wanted, a) && !slices.Contains(stale, a) {
				stale = append(stale, a)
			}
		}
	}
	return stale
}

// planGateways removes the default routes of earlier configurations before it adds those of want,
// for which they would leave no room. A default route that somebody put in the place of ours stays.
func planGateways(now state, earlier []Config, want Config) []change {
	wanted := []netip.Addr{want.Gateway}
	if now.ipv6 {
		wanted = append(wanted, want.Gateway6)
	}
	foreign4, foreign6 := now.foreign4, now.foreign6
	var changes []change
	for _, gateway := range now.gateways {
		given := slices.ContainsFunc(earlier, func(c Config) bool { return gateway == c.Gateway || gateway == c.Gateway6 })
		switch {
		case slices.Contains(wanted, gateway):
		case given:
			changes = append(changes, change{verb: removeGateway, gateway: gateway})
		case gateway.Is4():
			foreign4 = true
		default:
			foreign6 = true
		}
	}
	for _, gateway := range wanted {
		taken := gateway.Is4() && foreign4 || gateway.Is6() && foreign6
		if gateway.IsValid() && !taken && !slices.Contains(now.gateways, gateway) {
			changes = append(changes, change{verb: addGateway, gateway: gateway})
		}
	}
	return changes
}

// linkLocal is the address that the kernel makes of a MAC (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Prefix {
	b := [16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}
