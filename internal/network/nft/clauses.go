package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers (enum nft_registers in linux/netfilter/nf_tables.h): register is a whole one of 16
// bytes; a concatenation fills words of four bytes each from firstWord on.
const (
	register   = 1 // NFT_REG_1
	firstWord  = unix.NFT_REG32_00
	secondPart = firstWord + unix.IFNAMSIZ/4
	thirdPart  = secondPart + 2
)

var (
	// Accept is the verdict that lets a packet pass this chain.
	Accept = Clause{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	// Drop is the verdict that ends it.
	Drop = Clause{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}

	// Masquerade gives a packet the address of the interface that it goes out by.
	Masquerade = Clause{"masquerade", []expr.Any{&expr.Masq{}}}

	// EtherARP holds for a frame of ARP.
	EtherARP = Clause{"ether type arp", match(expr.PayloadBaseLLHeader, 12, []byte{0x08, 0x06})}
	// ARPIPv4 fixes what arp's fields below are: Ethernet and IPv4 addresses of 6 and 4 bytes (RFC
	// 826).
	ARPIPv4 = Clause{"arp htype 1 arp ptype ip arp hlen 6 arp plen 4", concat(
		match(expr.PayloadBaseNetworkHeader, 0, []byte{0, 1}),
		match(expr.PayloadBaseNetworkHeader, 2, []byte{0x08, 0x00}),
		match(expr.PayloadBaseNetworkHeader, 4, []byte{6}),
		match(expr.PayloadBaseNetworkHeader, 5, []byte{4}),
	)}

	// UDPTo53 holds for a packet to a name server.
	UDPTo53 = Clause{"udp dport 53", transport(unix.IPPROTO_UDP, 2, []byte{0, 53})}
	// TCPTo53 holds for one by TCP.
	TCPTo53 = Clause{"tcp dport 53", transport(unix.IPPROTO_TCP, 2, []byte{0, 53})}

	newConnection = connectionState("new", expr.CtStateBitNEW)
	// EstablishedOrRelated holds for a packet of a connection that the kernel knows.
	EstablishedOrRelated = connectionState("established,related", expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
)

func connectionState(text string, bits uint32) Clause {
	return Clause{"ct state " + text, []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register,
			DestRegister:   register,
			Len:            4,
			Mask:           binaryutil.NativeEndian.PutUint32(bits),
			Xor:            make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}}
}

func interfaceMatch(word string, key expr.MetaKey, op expr.CmpOp, name string) Clause {
	return Clause{fmt.Sprintf("%s %q", word, name), []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: op, Register: register, Data: interfaceBytes(name)},
	}}
}

// InInterface holds for a packet that came in by an interface.
func InInterface(name string) Clause {
	return interfaceMatch("iifname", expr.MetaKeyIIFNAME, expr.CmpOpEq, name)
}

// OutInterface holds for a packet that goes out by an interface.
func OutInterface(name string) Clause {
	return interfaceMatch("oifname", expr.MetaKeyOIFNAME, expr.CmpOpEq, name)
}

// OutInterfaceNot holds for a packet that goes out by another interface.
func OutInterfaceNot(name string) Clause {
	return interfaceMatch("oifname !=", expr.MetaKeyOIFNAME, expr.CmpOpNeq, name)
}

func interfaceLookup(word string, key expr.MetaKey, set string) Clause {
	return Clause{word + " @" + set, []expr.Any{
		&expr.Meta{Key: key, Register: register}, &expr.Lookup{SourceRegister: register, SetName: set},
	}}
}

// InInterfaceIn holds for a packet that came in by an interface of a set.
func InInterfaceIn(set string) Clause { return interfaceLookup("iifname", expr.MetaKeyIIFNAME, set) }

// OutInterfaceIn holds for a packet that goes out by an interface of a set.
func OutInterfaceIn(set string) Clause { return interfaceLookup("oifname", expr.MetaKeyOIFNAME, set) }

// ServiceIn holds when an IPv4 packet's source and the TCP port that it is for stand together in a
// set.
func ServiceIn(set string) Clause {
	return Clause{"ip saddr . tcp dport @" + set, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: IP4.source, Len: IP4.size, DestRegister: firstWord},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: firstWord + 1},
		&expr.Lookup{SourceRegister: firstWord, SetName: set},
	}}
}

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{Base: base, Offset: offset, Len: length, DestRegister: register}
}

func match(base expr.PayloadBase, offset uint32, want []byte) []expr.Any {
	return []expr.Any{
		load(base, offset, uint32(len(want))),
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: want},
	}
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

// InterfaceElement is an interface's key.
func InterfaceElement(name string) Element {
	return Element{fmt.Sprintf("%q", name), interfaceBytes(name)}
}

// AddressElement is an address's key.
func AddressElement(a netip.Addr) Element { return Element{a.String(), a.AsSlice()} }

// ServiceElement is the key of a VM and a port, padded to words.
func ServiceElement(a netip.Addr, port int) Element {
	key := binary.BigEndian.AppendUint16(a.AsSlice(), uint16(port))
	return Element{fmt.Sprintf("%s . %d", a, port), append(key, 0, 0)}
}

// SourceElement is an endpoint's key with one of its addresses; each part is padded to words of
// four bytes.
func SourceElement(tap string, mac net.HardwareAddr, a netip.Addr) Element {
	key := append(interfaceBytes(tap), mac...)
	key = append(append(key, 0, 0), a.AsSlice()...)
	return Element{fmt.Sprintf("%q . %s . %s", tap, mac, a), key}
}
