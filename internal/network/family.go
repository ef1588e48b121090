package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is a version of IP: what links and rules need to know of it.
type family struct {
	name          string // in nft's text
	table         nftables.TableFamily
	socket        int
	settings      string // its folder below /proc/sys/net
	forwardSwitch string // the setting that makes a router of a host
	addressFlags  int    // of addresses that we give

	source      uint32 // offset of the address in a packet's header (RFC 791, RFC 8200)
	destination uint32
	size        uint32 // of an address in bytes

	addresses setKind
	services  setKind // a VM's address and a port
	sources   setKind // a port's interface, MAC and address

	etherType   clause
	echoRequest clause
	unroutable  []netip.Prefix // destinations that no packet may leave the network for
}

var (
	ip4 = &family{
		name: "ip", table: nftables.TableFamilyIPv4, socket: unix.AF_INET,
		settings: "ipv4", forwardSwitch: "/proc/sys/net/ipv4/ip_forward",
		source: 12, destination: 16, size: net.IPv4len,
		addresses:   setKind{"ipv4_addr", nftables.TypeIPAddr},
		services:    concatKind("ipv4_addr . inet_service", nftables.TypeIPAddr, nftables.TypeInetService),
		sources:     concatKind("ifname . ether_addr . ipv4_addr", nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr),
		etherType:   clause{"ether type ip", match(expr.PayloadBaseLLHeader, 12, []byte{0x08, 0x00})},
		echoRequest: clause{"icmp type echo-request", transport(unix.IPPROTO_ICMP, 0, []byte{8})},
		unroutable:  []netip.Prefix{netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16")},
	}
	ip6 = &family{
		name: "ip6", table: nftables.TableFamilyIPv6, socket: unix.AF_INET6,
		settings: "ipv6", forwardSwitch: settings6 + "all/forwarding", addressFlags: unix.IFA_F_NODAD,
		source: 8, destination: 24, size: net.IPv6len,
		addresses:   setKind{"ipv6_addr", nftables.TypeIP6Addr},
		sources:     concatKind("ifname . ether_addr . ipv6_addr", nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIP6Addr),
		etherType:   clause{"ether type ip6", match(expr.PayloadBaseLLHeader, 12, []byte{0x86, 0xdd})},
		echoRequest: icmp6("echo-request", 128),
		// The first holds "::1", "::", by which pasta reaches this host's loopback, and ::ffff:0:0/96, IPv4 to a socket.
		unroutable: []netip.Prefix{netip.MustParsePrefix("::/16"), netip.MustParsePrefix("fe80::/10")},
	}
)

// Messages of neighbour discovery (RFC 4861), which is ARP's for IPv6.
var (
	neighbourSolicit = icmp6("nd-neighbor-solicit", 135)
	neighbourAdvert  = icmp6("nd-neighbor-advert", 136)

	// errorOrEcho are the other ICMPv6 messages that hosts send each other. Higher numbers are for routers and groups.
	errorOrEcho = clause{"icmpv6 type <= echo-reply", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_ICMPV6}},
		load(expr.PayloadBaseTransportHeader, 0, 1),
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: []byte{129}},
	}}
	// notICMP6 holds for other packets. In one that is not whole, and does not tell what it carries, nothing holds.
	notICMP6 = clause{"meta l4proto != ipv6-icmp", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte{unix.IPPROTO_ICMPV6}},
	}}
)

func icmp6(name string, number byte) clause {
	return clause{"icmpv6 type " + name, transport(unix.IPPROTO_ICMPV6, 0, []byte{number})}
}

func concatKind(text string, parts ...nftables.SetDatatype) setKind {
	return setKind{text, nftables.MustConcatSetType(parts...)}
}

func familyOf(a netip.Addr) *family {
	if a.Is4() {
		return ip4
	}
	return ip6
}

// of returns the address that goes with an IPv4 one.
func (f *family) of(a netip.Addr) netip.Addr {
	if f == ip6 {
		return Address6(a)
	}
	return a
}

// net returns the network that goes with a subnet.
func (f *family) net(subnet netip.Prefix) netip.Prefix {
	if f == ip6 {
		return Subnet6(subnet)
	}
	return subnet
}

// anywhere is the destination of a default route.
func (f *family) anywhere() *net.IPNet {
	return &net.IPNet{IP: make(net.IP, f.size), Mask: make(net.IPMask, f.size)}
}

// sourceIn holds when the frame's port, its MAC and the address that it comes from stand together in a set.
func (f *family) sourceIn(set string) clause {
	return portAndMAC("ether saddr", macOfFrame, f.name+" saddr", payload(expr.PayloadBaseNetworkHeader, f.source, f.size), set)
}

// advertisedIn is the same for the address that a neighbour advertisement speaks for.
func advertisedIn(set string) clause {
	return portAndMAC("ether saddr", macOfFrame, "@th,64,128", payload(expr.PayloadBaseTransportHeader, 8, net.IPv6len), set)
}

// senderIn is the same for the MAC and the address that an ARP message claims.
func senderIn(set string) clause {
	return portAndMAC("arp saddr ether", payload(expr.PayloadBaseNetworkHeader, 8, 6), "arp saddr ip", arpAddress, set)
}

// arpSourceIn is the same for the MAC of the frame and the address that an ARP message claims.
func arpSourceIn(set string) clause {
	return portAndMAC("ether saddr", macOfFrame, "arp saddr ip", arpAddress, set)
}

var (
	macOfFrame = payload(expr.PayloadBaseLLHeader, 6, 6)
	arpAddress = payload(expr.PayloadBaseNetworkHeader, 14, net.IPv4len)
)

func payload(base expr.PayloadBase, offset, length uint32) expr.Payload {
	return expr.Payload{Base: base, Offset: offset, Len: length}
}

func portAndMAC(macText string, mac expr.Payload, addressText string, address expr.Payload, set string) clause {
	mac.DestRegister, address.DestRegister = secondPart, thirdPart
	return clause{fmt.Sprintf("iifname . %s . %s @%s", macText, addressText, set), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstWord}, &mac, &address,
		&expr.Lookup{SourceRegister: firstWord, SetName: set},
	}}
}

// sourceInNAT holds for a packet of a VM that reaches the world.
func (f *family) sourceInNAT() clause {
	return clause{f.name + " saddr @nat", []expr.Any{
		load(expr.PayloadBaseNetworkHeader, f.source, f.size), &expr.Lookup{SourceRegister: register, SetName: "nat"},
	}}
}

func (f *family) destinationIn(set string) clause {
	return clause{f.name + " daddr @" + set, []expr.Any{
		load(expr.PayloadBaseNetworkHeader, f.destination, f.size), &expr.Lookup{SourceRegister: register, SetName: set},
	}}
}

// overRate holds for a packet that is more than its source may send; each source has a place in a dynamic set.
func (f *family) overRate(set string, perSecond, burst uint32) clause {
	return f.eachSource("update", unix.NFT_DYNSET_OP_UPDATE, set, fmt.Sprintf("limit rate over %d/second burst %d packets", perSecond, burst),
		&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(perSecond), Over: true, Unit: expr.LimitTimeSecond, Burst: burst})
}

// overConns holds for the first packet of a connection that is one more than its source may have at once.
func (f *family) overConns(set string, most uint32) clause {
	over := f.eachSource("add", unix.NFT_DYNSET_OP_ADD, set, fmt.Sprintf("ct count over %d", most), &expr.Connlimit{Count: most, Flags: expr.NFT_CONNLIMIT_F_INV})
	return clause{newConnection.text + " " + over.text, concat(newConnection.exprs, over.exprs)}
}

func (f *family) eachSource(verb string, operation uint32, set, text string, condition expr.Any) clause {
	return clause{fmt.Sprintf("%s @%s { %s saddr %s }", verb, set, f.name, text), []expr.Any{
		load(expr.PayloadBaseNetworkHeader, f.source, f.size),
		&expr.Dynset{SrcRegKey: register, SetName: set, Operation: operation, Exprs: []expr.Any{condition}},
	}}
}

func addressWithin(word string, offset uint32, op expr.CmpOp, p netip.Prefix) clause {
	f := familyOf(p.Addr())
	shown, exprs := p.String(), []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, f.size)}
	if p.IsSingleIP() {
		shown = p.Addr().String()
	} else {
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: f.size,
			Mask: net.CIDRMask(p.Bits(), int(8*f.size)), Xor: make([]byte, f.size),
		})
	}
	return clause{f.name + " " + word + " " + shown, append(exprs, &expr.Cmp{Op: op, Register: register, Data: p.Addr().AsSlice()})}
}

func destination(p netip.Prefix) clause {
	return addressWithin("daddr", familyOf(p.Addr()).destination, expr.CmpOpEq, p)
}

func destinationNot(a netip.Addr) clause {
	return addressWithin("daddr !=", familyOf(a).destination, expr.CmpOpNeq, single(a))
}

func packetSourceWithin(p netip.Prefix) clause {
	return addressWithin("saddr", familyOf(p.Addr()).source, expr.CmpOpEq, p)
}

func packetSource(a netip.Addr) clause { return packetSourceWithin(single(a)) }

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
