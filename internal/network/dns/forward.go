package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxResolvers   = 3 // as resolv.conf(5)
	resolverWait   = 2 * time.Second
	upstreamUDPMax = 4096 // bytes
)

// forwarder asks the resolvers of a resolv.conf, in its order. It is safe for concurrent use.
type forwarder struct {
	path string

	mu        sync.Mutex
	seen      os.FileInfo // of what resolvers was read from
	resolvers []string    // host:port
}

// ask returns a resolver's answer to q, under q's id. Each query has a socket of its own, so its
// port is hard to guess.
func (f *forwarder) ask(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	resolvers, err := f.current()
	if err != nil {
		return nil, err
	}
	up := new(dns.Msg).SetQuestion(q.Question[0].Name, q.Question[0].Qtype)
	up.RecursionDesired, up.CheckingDisabled = q.RecursionDesired, q.CheckingDisabled
	do := q.IsEdns0() != nil && q.IsEdns0().Do()
	up.SetEdns0(upstreamUDPMax, do)
	var errs []error
	for _, resolver := range resolvers {
		reply, err := exchange(ctx, up, resolver)
		if err != nil {
			errs = append(errs, fmt.Errorf("ask %s: %w", resolver, err))
			continue
		}
		reply.Id, reply.Question = q.Id, q.Question
		withoutEdns(reply)
		if q.IsEdns0() != nil {
			reply.SetEdns0(maxUDPReply, do)
		}
		return reply, nil
	}
	return nil, errors.Join(errs...)
}

// exchange asks by UDP, and by TCP when the answer does not fit.
func exchange(ctx context.Context, q *dns.Msg, resolver string) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: resolverWait}
		reply, _, err := client.ExchangeContext(ctx, q, resolver)
		if err != nil {
			return nil, err
		}
		if len(reply.Question) != 1 || reply.Question[0] != q.Question[0] {
			return nil, errors.New("the answer is to another question")
		}
		if !reply.Truncated {
			return reply, nil
		}
	}
	return nil, errors.New("the answer is cut short by TCP too")
}

// withoutEdns removes what two neighbours say to each other alone (RFC 6891, 6.2.6).
func withoutEdns(m *dns.Msg) {
	kept := m.Extra[:0]
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	m.Extra = kept
}

// current returns the resolvers, read anew when the file has changed or been replaced.
func (f *forwarder) current() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, fmt.Errorf("find the host's resolvers: %w", err)
	}
	if f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) &&
		info.Size() == f.seen.Size() {
		return f.resolvers, nil
	}
	config, err := dns.ClientConfigFromFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("read the host's resolvers: %w", err)
	}
	f.seen, f.resolvers = info, nil
	for _, server := range config.Servers[:min(len(config.Servers), maxResolvers)] {
		f.resolvers = append(f.resolvers, address(server, config.Port))
	}
	if len(f.resolvers) == 0 { // resolv.conf(5): then it is the local one
		f.resolvers = []string{net.JoinHostPort("127.0.0.1", "53")}
	}
	return f.resolvers, nil
}

func address(server, port string) string {
	if host, p, err := net.SplitHostPort(server); err == nil {
		return net.JoinHostPort(host, p)
	}
	return net.JoinHostPort(server, port)
}
