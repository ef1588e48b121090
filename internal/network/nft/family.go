package nft

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"banger/internal/network"
)

// Family is a version of IP: what links and rules need to know of it.
type Family struct {
	name          string // in nft's text
	Table         nftables.TableFamily
	Socket        int
	Settings      string // its folder below /proc/sys/net
	ForwardSwitch string // the setting that makes a router of a host
	AddressFlags  int    // of addresses that we give

	source      uint32 // offset of the address in a packet's header (RFC 791, RFC 8200)
	destination uint32
	size        uint32 // of an address in bytes

	Addresses SetKind
	Services  SetKind // a VM's address and a port
	Sources   SetKind // an endpoint's interface, MAC and address

	EtherType   Clause
	EchoRequest Clause
	Unroutable  []netip.Prefix // destinations that no packet may leave the network for
}

var (
	// IP4 is what everybody has.
	IP4 = &Family{
		name: "ip", Table: nftables.TableFamilyIPv4, Socket: unix.AF_INET,
		Settings: "ipv4", ForwardSwitch: "/proc/sys/net/ipv4/ip_forward",
		source: 12, destination: 16, size: net.IPv4len,
		Addresses: SetKind{"ipv4_addr", nftables.TypeIPAddr},
		Services:  concatKind("ipv4_addr . inet_service", nftables.TypeIPAddr, nftables.TypeInetService),
		Sources: concatKind("ifname . ether_addr . ipv4_addr", nftables.TypeIFName, nftables.TypeEtherAddr,
			nftables.TypeIPAddr),
		EtherType:   Clause{"ether type ip", match(expr.PayloadBaseLLHeader, 12, []byte{0x08, 0x00})},
		EchoRequest: Clause{"icmp type echo-request", transport(unix.IPPROTO_ICMP, 0, []byte{8})},
		Unroutable: []netip.Prefix{
			netip.MustParsePrefix("0.0.0.0/8"),
			netip.MustParsePrefix("127.0.0.0/8"),
			netip.MustParsePrefix("169.254.0.0/16"),
		},
	}
	// IP6 goes along with it, where the kernel has it.
	IP6 = &Family{
		name: "ip6", Table: nftables.TableFamilyIPv6, Socket: unix.AF_INET6,
		Settings: "ipv6", ForwardSwitch: Settings6 + "all/forwarding", AddressFlags: unix.IFA_F_NODAD,
		source: 8, destination: 24, size: net.IPv6len,
		Addresses: SetKind{"ipv6_addr", nftables.TypeIP6Addr},
		Sources: concatKind("ifname . ether_addr . ipv6_addr", nftables.TypeIFName, nftables.TypeEtherAddr,
			nftables.TypeIP6Addr),
		EtherType:   Clause{"ether type ip6", match(expr.PayloadBaseLLHeader, 12, []byte{0x86, 0xdd})},
		EchoRequest: icmp6("echo-request", 128),
		// The first holds "::1", "::", by which pasta reaches this host's loopback, and
		// ::ffff:0:0/96, IPv4 to a socket.
		Unroutable: []netip.Prefix{netip.MustParsePrefix("::/16"), netip.MustParsePrefix("fe80::/10")},
	}
)

// Messages of neighbour discovery (RFC 4861), which is ARP's for IPv6.
var (
	NeighbourSolicit = icmp6("nd-neighbor-solicit", 135)
	NeighbourAdvert  = icmp6("nd-neighbor-advert", 136)

	// ErrorOrEcho are the other ICMPv6 messages that hosts send each other. Higher numbers are for
	// routers and groups.
	ErrorOrEcho = Clause{"icmpv6 type <= echo-reply", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_ICMPV6}},
		load(expr.PayloadBaseTransportHeader, 0, 1),
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: []byte{129}},
	}}
	// NotICMP6 holds for other packets. In one that is not whole, and does not tell what it
	// carries, nothing holds.
	NotICMP6 = Clause{"meta l4proto != ipv6-icmp", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte{unix.IPPROTO_ICMPV6}},
	}}
)

func icmp6(name string, number byte) Clause {
	return Clause{"icmpv6 type " + name, transport(unix.IPPROTO_ICMPV6, 0, []byte{number})}
}

func concatKind(text string, parts ...nftables.SetDatatype) SetKind {
	return SetKind{text, nftables.MustConcatSetType(parts...)}
}

// Families are IPv4, and IPv6 where it is wanted too.
func Families(ipv6 bool) []*Family {
	if ipv6 {
		return []*Family{IP4, IP6}
	}
	return []*Family{IP4}
}

// FamilyOf returns the version of an address.
func FamilyOf(a netip.Addr) *Family {
	if a.Is4() {
		return IP4
	}
	return IP6
}

// Of returns the address that goes with an IPv4 one.
func (f *Family) Of(a netip.Addr) netip.Addr {
	if f == IP6 {
		return network.Address6(a)
	}
	return a
}

// Net returns the network that goes with a subnet.
func (f *Family) Net(subnet netip.Prefix) netip.Prefix {
	if f == IP6 {
		return network.Subnet6(subnet)
	}
	return subnet
}

// Anywhere is the destination of a default route.
func (f *Family) Anywhere() *net.IPNet {
	return &net.IPNet{IP: make(net.IP, f.size), Mask: make(net.IPMask, f.size)}
}

// SourceIn holds when the frame's tap, its MAC and the address that it comes from stand together
// in a set.
func (f *Family) SourceIn(set string) Clause {
	return portAndMAC("ether saddr", macOfFrame, f.name+" saddr",
		payload(expr.PayloadBaseNetworkHeader, f.source, f.size), set)
}

// AdvertisedIn is the same for the address that a neighbour advertisement speaks for.
func AdvertisedIn(set string) Clause {
	return portAndMAC("ether saddr", macOfFrame, "@th,64,128", payload(expr.PayloadBaseTransportHeader, 8, net.IPv6len),
		set)
}

// SenderIn is the same for the MAC and the address that an ARP message claims.
func SenderIn(set string) Clause {
	return portAndMAC("arp saddr ether", payload(expr.PayloadBaseNetworkHeader, 8, 6), "arp saddr ip", arpAddress, set)
}

// ArpSourceIn is the same for the MAC of the frame and the address that an ARP message claims.
func ArpSourceIn(set string) Clause {
	return portAndMAC("ether saddr", macOfFrame, "arp saddr ip", arpAddress, set)
}

var (
	macOfFrame = payload(expr.PayloadBaseLLHeader, 6, 6)
	arpAddress = payload(expr.PayloadBaseNetworkHeader, 14, net.IPv4len)
)

func payload(base expr.PayloadBase, offset, length uint32) expr.Payload {
	return expr.Payload{Base: base, Offset: offset, Len: length}
}

func portAndMAC(macText string, mac expr.Payload, addressText string, address expr.Payload, set string) Clause {
	mac.DestRegister, address.DestRegister = secondPart, thirdPart
	return Clause{fmt.Sprintf("iifname . %s . %s @%s", macText, addressText, set), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstWord}, &mac, &address,
		&expr.Lookup{SourceRegister: firstWord, SetName: set},
	}}
}

// SourceInNAT holds for a packet of a VM that reaches the world.
func (f *Family) SourceInNAT() Clause {
	return Clause{f.name + " saddr @nat", []expr.Any{
		load(expr.PayloadBaseNetworkHeader, f.source, f.size), &expr.Lookup{SourceRegister: register, SetName: "nat"},
	}}
}

// DestinationIn holds for a packet to an address of a set.
func (f *Family) DestinationIn(set string) Clause {
	return Clause{f.name + " daddr @" + set, []expr.Any{
		load(expr.PayloadBaseNetworkHeader, f.destination, f.size),
		&expr.Lookup{SourceRegister: register, SetName: set},
	}}
}

// OverRate holds for a packet that is more than its source may send; each source has a place in a
// dynamic set.
func (f *Family) OverRate(set string, perSecond, burst uint32) Clause {
	limit := &expr.Limit{
		Type: expr.LimitTypePkts, Rate: uint64(perSecond), Over: true, Unit: expr.LimitTimeSecond, Burst: burst,
	}
	text := fmt.Sprintf("limit rate over %d/second burst %d packets", perSecond, burst)
	return f.eachSource("update", unix.NFT_DYNSET_OP_UPDATE, set, text, limit)
}

// OverConns holds for the first packet of a connection that is one more than its source may have at
// once.
func (f *Family) OverConns(set string, most uint32) Clause {
	over := f.eachSource("add", unix.NFT_DYNSET_OP_ADD, set, fmt.Sprintf("ct count over %d", most),
		&expr.Connlimit{Count: most, Flags: expr.NFT_CONNLIMIT_F_INV})
	return Clause{newConnection.text + " " + over.text, concat(newConnection.Exprs, over.Exprs)}
}

func (f *Family) eachSource(verb string, operation uint32, set, text string, condition expr.Any) Clause {
	return Clause{fmt.Sprintf("%s @%s { %s saddr %s }", verb, set, f.name, text), []expr.Any{
		load(expr.PayloadBaseNetworkHeader, f.source, f.size),
		&expr.Dynset{SrcRegKey: register, SetName: set, Operation: operation, Exprs: []expr.Any{condition}},
	}}
}

func addressWithin(word string, offset uint32, op expr.CmpOp, p netip.Prefix) Clause {
	f := FamilyOf(p.Addr())
	shown, exprs := p.String(), []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, f.size)}
	if p.IsSingleIP() {
		shown = p.Addr().String()
	} else {
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: f.size,
			Mask: net.CIDRMask(p.Bits(), int(8*f.size)), Xor: make([]byte, f.size),
		})
	}
	return Clause{
		f.name + " " + word + " " + shown,
		append(exprs, &expr.Cmp{Op: op, Register: register, Data: p.Addr().AsSlice()}),
	}
}

// Destination holds for a packet to a network.
func Destination(p netip.Prefix) Clause {
	return addressWithin("daddr", FamilyOf(p.Addr()).destination, expr.CmpOpEq, p)
}

// DestinationNot holds for a packet to another address.
func DestinationNot(a netip.Addr) Clause {
	return addressWithin("daddr !=", FamilyOf(a).destination, expr.CmpOpNeq, Single(a))
}

// PacketSourceWithin holds for a packet from a network.
func PacketSourceWithin(p netip.Prefix) Clause {
	return addressWithin("saddr", FamilyOf(p.Addr()).source, expr.CmpOpEq, p)
}

// PacketSource holds for a packet from an address.
func PacketSource(a netip.Addr) Clause { return PacketSourceWithin(Single(a)) }

// Single is the network of one address.
func Single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
