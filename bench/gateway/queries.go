package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"banger/internal/network"
	"banger/internal/network/dns"
)

const (
	serverAddress   = "127.0.0.3:53"
	upstreamAddress = "127.0.0.2"

	askers        = 32   // at once
	queriesOfEach = 1000 // in a round; from queriesPerGuest on it asks as another guest
	// queriesPerGuest stays below what the name server allows one guest.
	queriesPerGuest = 100
	queryTimeout    = 5 * time.Second
)

// measureQueries asks the gateway's name server, on loopback, for a name of its own and for one
// that it asks a resolver for, and that resolver directly. A sample is a round of askers *
// queriesOfEach queries.
func (w *world) measureQueries(ctx context.Context, n counts) (_ []Samples, err error) {
	ctx, cancel := context.WithCancel(ctx)
	resolver, err := startResolver(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	server, err := w.startServer(ctx)
	if err != nil {
		cancel()
		return nil, errors.Join(err, resolver.Shutdown())
	}
	defer func() {
		cancel()
		err = errors.Join(err, <-server, resolver.Shutdown())
	}()
	contenders := []struct{ name, server, question string }{
		{"DNS, a machine's name", serverAddress, "web.vm."},
		{"DNS, a name of the world", serverAddress, "example.org."},
		{"DNS, the resolver asked directly", upstreamAddress + ":53", "example.org."},
	}
	all := make([]Samples, len(contenders))
	for turn := range n.queries + 1 { // the first does not count
		for i, c := range contenders {
			began := time.Now()
			if err := ask(ctx, turn, c.server, c.question); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			all[i].Name = c.name
			if turn > 0 {
				all[i].add(time.Since(began))
			}
		}
	}
	return all, nil
}

// startResolver is the host's resolver.
func startResolver(ctx context.Context) (*mdns.Server, error) {
	packets, err := new(net.ListenConfig).ListenPacket(ctx, "udp4", upstreamAddress+":53")
	if err != nil {
		return nil, err
	}
	started := make(chan struct{})
	server := &mdns.Server{
		PacketConn:        packets,
		NotifyStartedFunc: func() { close(started) },
		Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
			reply := new(mdns.Msg).SetReply(q)
			reply.Answer = []mdns.RR{
				&mdns.A{
					Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60},
					A:   net.IP{192, 0, 2, 99},
				},
			}
			_ = w.WriteMsg(reply) // who asks sees that nothing comes
		}),
	}
	go func() { _ = server.ActivateAndServe() }() // ends with Shutdown
	<-started
	return server, nil
}

// startServer is the gateway's name server; the channel gives how it ended.
func (w *world) startServer(ctx context.Context) (<-chan error, error) {
	packets, err := new(net.ListenConfig).ListenPacket(ctx, "udp4", serverAddress)
	if err != nil {
		return nil, err
	}
	streams, err := new(net.ListenConfig).Listen(ctx, "tcp4", serverAddress)
	if err != nil {
		return nil, errors.Join(err, packets.Close())
	}
	server := &dns.Server{
		Domain: network.Domain, Subnets: []netip.Prefix{network.DefaultSubnet}, ResolvConf: w.resolvConf(),
		Log:     slog.New(slog.DiscardHandler),
		Lookup:  func(string) []netip.Addr { return []netip.Addr{network.Gateway(network.DefaultSubnet).Next()} },
		Reverse: func(netip.Addr) (string, bool) { return "web", true },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, packets, streams) }()
	return ended, nil
}

// ask sends a round of queries, each guest's from an address of its own.
func ask(ctx context.Context, turn int, server, question string) error {
	group, ctx := errgroup.WithContext(ctx)
	for asker := range askers {
		group.Go(func() error {
			for guest := range queriesOfEach / queriesPerGuest {
				from := net.IPv4(127, byte(1+turn), byte(asker), byte(1+guest))
				if err := askAs(ctx, from, server, question); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func askAs(ctx context.Context, from net.IP, server, question string) error {
	client := &mdns.Client{Timeout: queryTimeout, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: from}}}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close()
	for range queriesPerGuest {
		reply, _, err := client.ExchangeWithConnContext(ctx, new(mdns.Msg).SetQuestion(question, mdns.TypeA), conn)
		if err != nil {
			return err
		}
		if len(reply.Answer) != 1 {
			return fmt.Errorf("the answer is %s", mdns.RcodeToString[reply.Rcode])
		}
	}
	return nil
}
