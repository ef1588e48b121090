// Package dns is the name server of the VMs: it answers for their own names and addresses, and asks
// the host's resolvers for the rest. What a guest can make it hold is bounded: queries at once, and
// their rate, for each guest.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// TTL of our own answers in seconds: a name may pass to another VM.
const answerTTL = 5

// Server answers queries. Its fields are set before Serve and not changed.
type Server struct {
	Domain     string                                  // of the VMs' names, such as "vm", without dots
	Subnets    []netip.Prefix                          // whose reverse names are ours
	Lookup     func(name string) []netip.Addr          // a VM's addresses by its name, in lower case; or none
	Reverse    func(address netip.Addr) (string, bool) // a VM's name by its address
	ResolvConf string                                  // the resolvers, see resolv.conf(5); read when it changes
	Log        *slog.Logger
}

// Serve answers what comes on the two sockets until ctx ends, and closes them.
func (s *Server) Serve(ctx context.Context, packets net.PacketConn, streams net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	handler := &handler{server: s, forward: forwarder{path: s.ResolvConf}, limits: newLimits(), ctx: ctx}
	udp := &dns.Server{PacketConn: packets, Handler: handler, UDPSize: dns.DefaultMsgSize, ReadTimeout: readTimeout}
	tcp := &dns.Server{
		Listener: newBoundedListener(ctx, streams, s.Log), Handler: handler, ReadTimeout: readTimeout,
		WriteTimeout: readTimeout, IdleTimeout: func() time.Duration { return readTimeout }, MaxTCPQueries: 64,
	}
	for _, server := range []*dns.Server{udp, tcp} {
		group.Go(server.ActivateAndServe)
	}
	group.Go(func() error {
		<-ctx.Done()
		// Shutdown ends idle streams, but not a server that has not begun; closing its socket does.
		_ = tcp.Shutdown()
		_ = udp.Shutdown()
		return errors.Join(ignoreClosed(packets.Close()), ignoreClosed(streams.Close()))
	})
	return ignoreClosed(group.Wait())
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

const readTimeout = 3 * time.Second

// own answers for names of ours, or reports that the query is another's.
func (s *Server) own(q *dns.Msg) (reply *dns.Msg, ours bool) {
	question := q.Question[0]
	name := strings.ToLower(dns.Fqdn(question.Name))
	reply = new(dns.Msg).SetReply(q)
	reply.Authoritative = true
	reply.RecursionAvailable = true
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: answerTTL}
	suffix := s.Domain + "."
	if name == suffix {
		return reply, true
	}
	if label, found := strings.CutSuffix(name, "."+suffix); found {
		addresses := s.Lookup(label)
		if len(addresses) == 0 {
			reply.Rcode = dns.RcodeNameError
		}
		for _, a := range addresses {
			record := addressRecord(header, a)
			if question.Qtype == record.Header().Rrtype || question.Qtype == dns.TypeANY {
				reply.Answer = append(reply.Answer, record)
			}
		}
		return reply, true
	}
	address, reverse := reverseAddress(name)
	if !reverse || !slices.ContainsFunc(s.Subnets, func(p netip.Prefix) bool { return p.Contains(address) }) {
		return nil, false
	}
	label, known := s.Reverse(address)
	if !known {
		reply.Rcode = dns.RcodeNameError
	} else if question.Qtype == dns.TypePTR || question.Qtype == dns.TypeANY {
		header.Rrtype = dns.TypePTR
		reply.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: label + "." + suffix}}
	}
	return reply, true
}

func addressRecord(header dns.RR_Header, a netip.Addr) dns.RR {
	if a.Is4() {
		header.Rrtype = dns.TypeA
		return &dns.A{Hdr: header, A: a.AsSlice()}
	}
	header.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: header, AAAA: a.AsSlice()}
}

// reverseAddress returns the address that a name of in-addr.arpa (RFC 1035, 3.5) or ip6.arpa (RFC
// 3596, 2.5) stands for.
func reverseAddress(name string) (netip.Addr, bool) {
	text, v6 := strings.CutSuffix(name, ".ip6.arpa.")
	text, v4 := strings.CutSuffix(text, ".in-addr.arpa.")
	labels := strings.Split(text, ".")
	slices.Reverse(labels)
	var address netip.Addr
	var err error
	switch {
	case v4 && !v6 && len(labels) == 4:
		address, err = netip.ParseAddr(strings.Join(labels, "."))
	case v6 && !v4 && len(labels) == 32:
		var groups []string
		for four := range slices.Chunk(labels, 4) {
			groups = append(groups, strings.Join(four, ""))
		}
		address, err = netip.ParseAddr(strings.Join(groups, ":"))
	default:
		return netip.Addr{}, false
	}
	if err != nil {
		return netip.Addr{}, false
	}
	back, err := dns.ReverseAddr(address.String())
	return address, err == nil && back == name // a label may hold anything
}
