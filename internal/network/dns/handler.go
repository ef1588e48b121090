package dns

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"
)

// handler answers one query at a time for each goroutine of the DNS library.
type handler struct {
	server  *Server
	forward forwarder
	limits  *limits
	ctx     context.Context // Serve's: a query ends with it
}

// ServeDNS answers a query, or drops it silently when its guest has too many.
func (h *handler) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	peer, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	release, ok := h.limits.take(peer.Addr().Unmap())
	if !ok {
		return
	}
	defer release()
	reply := h.answer(q)
	if w.LocalAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, min(int(o.UDPSize()), maxUDPReply))
		}
		reply.Truncate(size)
	}
	_ = w.WriteMsg(reply) // the guest may be gone; it asks again when it is not
}

// maxUDPReply avoids fragments (DNS flag day 2020).
const maxUDPReply = 1232

// answer never returns nil.
func (h *handler) answer(q *dns.Msg) *dns.Msg {
	if q.Opcode != dns.OpcodeQuery {
		return new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented)
	}
	if q.Response || len(q.Question) != 1 {
		return new(dns.Msg).SetRcodeFormatError(q)
	}
	question := q.Question[0]
	if question.Qclass != dns.ClassINET || question.Qtype == dns.TypeAXFR || question.Qtype == dns.TypeIXFR {
		return new(dns.Msg).SetRcode(q, dns.RcodeRefused)
	}
	if reply, ours := h.server.own(q); ours {
		return reply
	}
	reply, err := h.forward.ask(h.ctx, q)
	if err != nil {
		h.server.Log.DebugContext(h.ctx, "no resolver of the host answers", "err", err)
		return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	return reply
}
