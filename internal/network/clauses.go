package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers (enum nft_registers in linux/netfilter/nf_tables.h): register is a whole one of 16 bytes; a concatenation fills
// words of four bytes each from firstWord on.
const (
	register   = 1 // NFT_REG_1
	firstWord  = unix.NFT_REG32_00
	secondPart = firstWord + unix.IFNAMSIZ/4
	thirdPart  = secondPart + 2
)

var (
	accept = clause{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	drop   = clause{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}

	masquerade = clause{"masquerade", []expr.Any{&expr.Masq{}}}

	etherIPv4 = clause{"ether type ip", match(expr.PayloadBaseLLHeader, 12, []byte{0x08, 0x00})}
	etherARP  = clause{"ether type arp", match(expr.PayloadBaseLLHeader, 12, []byte{0x08, 0x06})}
	// arpIPv4 fixes what arp's fields below are: Ethernet and IPv4 addresses of 6 and 4 bytes (RFC 826).
	arpIPv4 = clause{"arp htype 1 arp ptype ip arp hlen 6 arp plen 4", concat(
		match(expr.PayloadBaseNetworkHeader, 0, []byte{0, 1}), match(expr.PayloadBaseNetworkHeader, 2, []byte{0x08, 0x00}),
		match(expr.PayloadBaseNetworkHeader, 4, []byte{6}), match(expr.PayloadBaseNetworkHeader, 5, []byte{4}))}

	udpTo53     = clause{"udp dport 53", transport(unix.IPPROTO_UDP, 2, []byte{0, 53})}
	tcpTo53     = clause{"tcp dport 53", transport(unix.IPPROTO_TCP, 2, []byte{0, 53})}
	echoRequest = clause{"icmp type echo-request", transport(unix.IPPROTO_ICMP, 0, []byte{8})}

	establishedOrRelated = clause{"ct state established,related", []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}}
)

// sourceParts are where a frame's claims of its source stand.
var sourceParts = map[string]*expr.Payload{
	"ether saddr":     {Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6, DestRegister: secondPart},
	"arp saddr ether": {Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 6, DestRegister: secondPart},
	"ip saddr":        {Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4, DestRegister: thirdPart},
	"arp saddr ip":    {Base: expr.PayloadBaseNetworkHeader, Offset: 14, Len: 4, DestRegister: thirdPart},
}

func sourceClause(mac, address, set string) clause {
	return clause{fmt.Sprintf("iifname . %s . %s @%s", mac, address, set), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstWord},
		sourceParts[mac], sourceParts[address],
		&expr.Lookup{SourceRegister: firstWord, SetName: set},
	}}
}

// sourceIn holds when the frame's port, its MAC and an address in it stand together in a set.
func sourceIn(address, set string) clause { return sourceClause("ether saddr", address, set) }

// senderIn is the same for the MAC that an ARP message claims.
func senderIn(set string) clause { return sourceClause("arp saddr ether", "arp saddr ip", set) }

func interfaceMatch(word string, key expr.MetaKey, op expr.CmpOp, name string) clause {
	return clause{fmt.Sprintf("%s %q", word, name), []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: op, Register: register, Data: interfaceBytes(name)},
	}}
}

func inInterface(name string) clause {
	return interfaceMatch("iifname", expr.MetaKeyIIFNAME, expr.CmpOpEq, name)
}

func outInterface(name string) clause {
	return interfaceMatch("oifname", expr.MetaKeyOIFNAME, expr.CmpOpEq, name)
}

func outInterfaceNot(name string) clause {
	return interfaceMatch("oifname !=", expr.MetaKeyOIFNAME, expr.CmpOpNeq, name)
}

func interfaceLookup(word string, key expr.MetaKey, set string) clause {
	return clause{word + " @" + set, []expr.Any{
		&expr.Meta{Key: key, Register: register}, &expr.Lookup{SourceRegister: register, SetName: set},
	}}
}

func inInterfaceIn(set string) clause { return interfaceLookup("iifname", expr.MetaKeyIIFNAME, set) }

func outInterfaceIn(set string) clause { return interfaceLookup("oifname", expr.MetaKeyOIFNAME, set) }

// Offsets of the addresses in an IPv4 header (RFC 791).
const (
	sourceOffset      = 12
	destinationOffset = 16
)

func addressWithin(word string, offset uint32, op expr.CmpOp, p netip.Prefix) clause {
	shown, exprs := p.String(), []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, 4)}
	if p.IsSingleIP() {
		shown = p.Addr().String()
	} else {
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4),
		})
	}
	return clause{word + " " + shown, append(exprs, &expr.Cmp{Op: op, Register: register, Data: p.Addr().AsSlice()})}
}

func destination(p netip.Prefix) clause {
	return addressWithin("ip daddr", destinationOffset, expr.CmpOpEq, p)
}

func destinationNot(a netip.Addr) clause {
	return addressWithin("ip daddr !=", destinationOffset, expr.CmpOpNeq, netip.PrefixFrom(a, 32))
}

func packetSourceWithin(p netip.Prefix) clause {
	return addressWithin("ip saddr", sourceOffset, expr.CmpOpEq, p)
}

func packetSource(a netip.Addr) clause { return packetSourceWithin(netip.PrefixFrom(a, 32)) }

func destinationIn(set string) clause {
	return clause{"ip daddr @" + set, []expr.Any{
		load(expr.PayloadBaseNetworkHeader, destinationOffset, 4), &expr.Lookup{SourceRegister: register, SetName: set},
	}}
}

func packetSourceIn(set string) clause {
	return clause{"ip saddr @" + set, []expr.Any{
		load(expr.PayloadBaseNetworkHeader, sourceOffset, 4), &expr.Lookup{SourceRegister: register, SetName: set},
	}}
}

// serviceIn holds when a packet's source and the TCP port that it is for stand together in a set.
func serviceIn(set string) clause {
	return clause{"ip saddr . tcp dport @" + set, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: 4, DestRegister: firstWord},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: firstWord + 1},
		&expr.Lookup{SourceRegister: firstWord, SetName: set},
	}}
}

// overRate holds for a packet that is more than its source may send; each source has a place in a dynamic set.
func overRate(set string, perSecond, burst uint32) clause {
	return clause{fmt.Sprintf("update @%s { ip saddr limit rate over %d/second burst %d packets }", set, perSecond, burst), []expr.Any{
		load(expr.PayloadBaseNetworkHeader, sourceOffset, 4),
		&expr.Dynset{SrcRegKey: register, SetName: set, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Exprs: []expr.Any{
			&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(perSecond), Over: true, Unit: expr.LimitTimeSecond, Burst: burst},
		}},
	}}
}

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{Base: base, Offset: offset, Len: length, DestRegister: register}
}

func match(base expr.PayloadBase, offset uint32, want []byte) []expr.Any {
	return []expr.Any{load(base, offset, uint32(len(want))), &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: want}}
}

func transport(protocol byte, offset uint32, want []byte) []expr.Any {
	return concat([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{protocol}},
	}, match(expr.PayloadBaseTransportHeader, offset, want))
}

func concat(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// interfaceBytes pads a name to the whole field, so that a match is not one of a prefix.
func interfaceBytes(name string) []byte {
	field := make([]byte, unix.IFNAMSIZ)
	copy(field, name)
	return field
}

func interfaceElement(name string) element {
	return element{fmt.Sprintf("%q", name), interfaceBytes(name)}
}

func addressElement(a netip.Addr) element { return element{a.String(), a.AsSlice()} }

// serviceElement is the key of a VM and a port, padded to words.
func serviceElement(a netip.Addr, port int) element {
	key := binary.BigEndian.AppendUint16(a.AsSlice(), uint16(port))
	return element{fmt.Sprintf("%s . %d", a, port), append(key, 0, 0)}
}

// sourceElement is a port's key; each part is padded to words of four bytes. The port has been checked.
func sourceElement(p Port) element {
	mac, _ := net.ParseMAC(p.MAC)
	key := append(interfaceBytes(p.tapName()), mac...)
	key = append(append(key, 0, 0), p.Address.AsSlice()...)
	return element{fmt.Sprintf("%q . %s . %s", p.tapName(), p.MAC, p.Address), key}
}
