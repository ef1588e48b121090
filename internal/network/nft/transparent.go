package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Clauses by which connections are taken to a socket here, whatever their destination.

// TCP holds for a packet of TCP.
var TCP = Clause{"meta l4proto tcp", []expr.Any{
	&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
	&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
}}

// Opening holds for the first packet of a TCP connection (RFC 9293).
var Opening = Clause{"tcp flags & (fin | syn | rst | ack) == syn", concat(TCP.Exprs, []expr.Any{
	load(expr.PayloadBaseTransportHeader, 13, 1),
	&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}},
	&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{0x02}},
})}

// RejectTCP answers with a reset.
var RejectTCP = Clause{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}

// Marked holds for a packet that has a mark.
func Marked(mark uint32) Clause {
	return Clause{fmt.Sprintf("meta mark 0x%08x", mark), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint32(mark)},
	}}
}

// SetMark gives a packet a mark.
func SetMark(mark uint32) Clause {
	return Clause{fmt.Sprintf("meta mark set 0x%08x", mark), []expr.Any{
		&expr.Immediate{Register: register, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true},
	}}
}

// TProxy gives a packet to the socket of its connection, or to the listener at an address
// (Documentation/networking/tproxy.rst).
func TProxy(f *Family, at netip.AddrPort) Clause {
	return Clause{"tproxy to " + at.String(), []expr.Any{
		&expr.Immediate{Register: register, Data: at.Addr().AsSlice()},
		&expr.Immediate{Register: register + 1, Data: binary.BigEndian.AppendUint16(nil, at.Port())},
		&expr.TProxy{Family: byte(f.Table), TableFamily: byte(f.Table), RegAddr: register, RegPort: register + 1},
	}}
}
