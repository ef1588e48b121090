package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What leads the VMs' TCP to the relay (see relay.go), all inside the namespace: two tun devices, marks that the rules give
// to packets, and a routing table for each mark.
const (
	askName    = "ask0"    // the relay reads the first packets of connections here, and gives back those it lets in
	refuseName = "refuse0" // the relay gives back those that it does not

	relayPort = 15001 // of its listeners on loopback; no other socket there has it

	markLocal = 101 // is delivered in the namespace, whatever its destination
	markAsk   = 102 // goes to askName

	// openingPackets is how many connections a VM may begin in a second; a flood must not fill askName's queue.
	openingPackets = 5000
	// askQueue is how many packets wait at askName.
	askQueue = 4096
)

var isTCP = clause{"meta l4proto tcp", []expr.Any{
	&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
	&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
}}

// opening holds for the first packet of a TCP connection (RFC 9293).
var opening = clause{"tcp flags & (fin | syn | rst | ack) == syn", concat(isTCP.exprs, []expr.Any{
	load(expr.PayloadBaseTransportHeader, 13, 1),
	&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}},
	&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{0x02}},
})}

// refuseTCP answers with a reset.
var refuseTCP = clause{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}

func marked(mark uint32) clause {
	return clause{fmt.Sprintf("meta mark 0x%08x", mark), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint32(mark)},
	}}
}

func setMark(mark uint32) clause {
	return clause{fmt.Sprintf("meta mark set 0x%08x", mark), []expr.Any{
		&expr.Immediate{Register: register, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true},
	}}
}

// relayAddress is where the relay listens.
func (f *family) relayAddress() netip.AddrPort {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if f == ip6 {
		loopback = netip.IPv6Loopback()
	}
	return netip.AddrPortFrom(loopback, relayPort)
}

// toRelay gives a packet to the socket of its connection, or to the relay's listener (Documentation/networking/tproxy.rst).
func (f *family) toRelay() clause {
	at := f.relayAddress()
	return clause{"tproxy to " + at.String(), []expr.Any{
		&expr.Immediate{Register: register, Data: at.Addr().AsSlice()},
		&expr.Immediate{Register: register + 1, Data: binary.BigEndian.AppendUint16(nil, at.Port())},
		&expr.TProxy{Family: byte(f.table), TableFamily: byte(f.table), RegAddr: register, RegPort: register + 1},
	}}
}

// relayRules tell the VMs' TCP to the world from all else. What they leave alone, the forward chain drops or lets pass.
func relayRules(f *family, subnet netip.Prefix) chain {
	fromVM, fromAsk := inInterface(bridgeName), inInterface(askName)
	rules := []rule{{fromVM, destination(f.net(subnet)), accept}}
	for _, p := range f.unroutable {
		rules = append(rules, rule{fromVM, destination(p), accept})
	}
	rules = append(
		rules,
		rule{fromVM, f.destinationIn("host"), accept},
		rule{fromVM, f.sourceInNAT(), opening, f.overRate("opening", openingPackets, openingPackets), drop},
		rule{fromVM, f.sourceInNAT(), opening, setMark(markAsk), accept},
		rule{fromVM, f.sourceInNAT(), isTCP, f.toRelay(), setMark(markLocal), accept},
		rule{fromAsk, isTCP, f.toRelay(), setMark(markLocal), accept},
		rule{inInterface(refuseName), isTCP, setMark(markLocal), accept},
	)
	return chain{name: "relay", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookPrerouting, priority: *nftables.ChainPriorityMangle, rules: rules}
}

// relayInput are the first rules for what ends in the namespace.
func relayInput() []rule {
	return []rule{{inInterface(refuseName), isTCP, refuseTCP}, {marked(markLocal), accept}}
}
