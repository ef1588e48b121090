// Package dns is the name server of the VMs: it answers for their own names and addresses, and asks the host's resolvers
// for the rest. What a guest can make it hold is bounded: queries at once, and their rate, for each guest.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
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
	Subnet     netip.Prefix                            // IPv4, whose reverse names are ours
	Lookup     func(name string) (netip.Addr, bool)    // a VM's address by its name in the domain, in lower case
	Reverse    func(address netip.Addr) (string, bool) // a VM's name by its address
	ResolvConf string                                  // file with the resolvers, see resolv.conf(5); read when it changes
	Log        *slog.Logger
}

// Serve answers what comes on the two sockets until ctx ends, and closes them.
func (s *Server) Serve(ctx context.Context, packets net.PacketConn, streams net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	handler := &handler{server: s, forward: forwarder{path: s.ResolvConf}, limits: newLimits(), ctx: ctx}
	udp := &dns.Server{PacketConn: packets, Handler: handler, UDPSize: dns.DefaultMsgSize, ReadTimeout: readTimeout}
	tcp := &dns.Server{
		Listener: newBoundedListener(streams), Handler: handler, ReadTimeout: readTimeout,
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
		address, known := s.Lookup(label)
		if !known {
			reply.Rcode = dns.RcodeNameError
		} else if question.Qtype == dns.TypeA || question.Qtype == dns.TypeANY {
			header.Rrtype = dns.TypeA
			reply.Answer = []dns.RR{&dns.A{Hdr: header, A: address.AsSlice()}}
		}
		return reply, true
	}
	address, reverse := reverseAddress(name)
	if !reverse || !s.Subnet.Contains(address) {
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

// reverseAddress returns the address that a name of in-addr.arpa stands for (RFC 1035, 3.5).
func reverseAddress(name string) (netip.Addr, bool) {
	text, found := strings.CutSuffix(name, ".in-addr.arpa.")
	if !found {
		return netip.Addr{}, false
	}
	labels := strings.Split(text, ".")
	if len(labels) != 4 {
		return netip.Addr{}, false
	}
	address, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
	return address, err == nil
}
