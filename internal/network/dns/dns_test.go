package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var webAddress, webAddress6 = netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("fd00::2")

// start serves on loopback, with a VM named web, and returns the server's address.
func start(t *testing.T, resolvConf string) string {
	t.Helper()
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp4", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- testServer(resolvConf).Serve(ctx, packets, streams) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return packets.LocalAddr().String()
}

func testServer(resolvConf string) *Server {
	return &Server{
		Domain: "vm", ResolvConf: resolvConf, Log: slog.New(slog.DiscardHandler),
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16"), netip.MustParsePrefix("fd00::/112")},
		Lookup: func(name string) []netip.Addr {
			if name != "web" {
				return nil
			}
			return []netip.Addr{webAddress, webAddress6}
		},
		Reverse: func(a netip.Addr) (string, bool) { return "web", a == webAddress || a == webAddress6 },
	}
}

// upstream is a resolver of the host's; it returns its address and counts its queries.
func upstream(t *testing.T, answer dns.HandlerFunc) (string, *atomic.Int32) {
	t.Helper()
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp4", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	var count atomic.Int32
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { count.Add(1); answer(w, q) })
	done := make(chan error, 2)
	udp, tcp := &dns.Server{PacketConn: packets, Handler: handler}, &dns.Server{Listener: streams, Handler: handler}
	go func() { done <- udp.ActivateAndServe() }()
	go func() { done <- tcp.ActivateAndServe() }()
	t.Cleanup(func() {
		_, _ = udp.Shutdown(), tcp.Shutdown()
		packets.Close()
		streams.Close()
		<-done
		<-done
	})
	return packets.LocalAddr().String(), &count
}

func resolvConf(t *testing.T, servers ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	var text strings.Builder
	for _, s := range servers {
		text.WriteString("nameserver " + s + "\n")
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func ask(t *testing.T, network, server string, q *dns.Msg) *dns.Msg {
	t.Helper()
	client := dns.Client{Net: network, Timeout: 10 * time.Second}
	reply, _, err := client.Exchange(q, server)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func question(name string, kind uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, kind) }

// brief writes a reply as one line.
func brief(m *dns.Msg) string {
	text := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		text += " " + strings.ReplaceAll(rr.String(), "\t", " ")
	}
	return text
}

func TestOwnNames(t *testing.T) {
	zeros := strings.Repeat("0.", 29)
	server := start(t, "/nonexistent")
	rows := []struct {
		name string
		kind uint16
		want string
	}{
		{"web.vm.", dns.TypeA, "NOERROR web.vm. 5 IN A 172.30.0.2"},
		{"WEB.vM.", dns.TypeA, "NOERROR WEB.vM. 5 IN A 172.30.0.2"},
		{"web.vm.", dns.TypeAAAA, "NOERROR web.vm. 5 IN AAAA fd00::2"},
		{"web.vm.", dns.TypeANY, "NOERROR web.vm. 5 IN A 172.30.0.2 web.vm. 5 IN AAAA fd00::2"},
		{"web.vm.", dns.TypeMX, "NOERROR"},
		{"db.vm.", dns.TypeAAAA, "NXDOMAIN"},
		{"vm.", dns.TypeA, "NOERROR"},
		{"db.vm.", dns.TypeA, "NXDOMAIN"},
		{"x.web.vm.", dns.TypeA, "NXDOMAIN"},
		{"2.0.30.172.in-addr.arpa.", dns.TypePTR, "NOERROR 2.0.30.172.in-addr.arpa. 5 IN PTR web.vm."},
		{"3.0.30.172.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"2." + zeros + "d.f.ip6.arpa.", dns.TypePTR, "NOERROR 2." + zeros + "d.f.ip6.arpa. 5 IN PTR web.vm."},
		{"2." + zeros + "D.F.ip6.arpa.", dns.TypePTR, "NOERROR 2." + zeros + "D.F.ip6.arpa. 5 IN PTR web.vm."},
		{"3." + zeros + "d.f.ip6.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"3." + zeros + "d.e.ip6.arpa.", dns.TypePTR, "SERVFAIL"},
		{zeros + "d.f.ip6.arpa.", dns.TypePTR, "SERVFAIL"},
		{"02." + zeros + "d.f.ip6.arpa.", dns.TypePTR, "SERVFAIL"},
		{"notvm.", dns.TypeA, "SERVFAIL"},
		{"1.0.0.10.in-addr.arpa.", dns.TypePTR, "SERVFAIL"},
		{"web.vm.", dns.TypeAXFR, "REFUSED"},
	}
	for _, row := range rows {
		for _, network := range []string{"udp", "tcp"} {
			if got := brief(ask(t, network, server, question(row.name, row.kind))); got != row.want {
				t.Errorf("%s %s by %s: got %q, want %q", row.name, dns.TypeToString[row.kind], network, got, row.want)
			}
		}
	}
}

func TestForward(t *testing.T) {
	// The answer is 100 addresses: by UDP it is cut short, as it is for the guest.
	resolver, count := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		reply := new(dns.Msg).SetReply(q)
		for i := range byte(100) {
			reply.Answer = append(reply.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IP{192, 0, 2, i}})
		}
		if w.LocalAddr().Network() == "udp" {
			reply.Truncate(512)
		}
		w.WriteMsg(reply)
	})
	host, port, _ := net.SplitHostPort(resolver)
	f := &forwarder{path: resolvConf(t, host)}
	if _, err := f.current(); err != nil {
		t.Fatal(err)
	}
	f.resolvers = []string{net.JoinHostPort("127.0.0.1", "1"), net.JoinHostPort(host, port)} // the first is closed
	q := question("Example.org.", dns.TypeA)
	reply, err := f.ask(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if reply.Id != q.Id || len(reply.Answer) != 100 || reply.Truncated || count.Load() != 2 {
		t.Errorf("got id %d, %d answers, truncated %t, %d queries; want %d, 100, false, 2", reply.Id, len(reply.Answer), reply.Truncated, count.Load(), q.Id)
	}
}

func TestResolversAreReadAgain(t *testing.T) {
	path := resolvConf(t, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
	f := &forwarder{path: path}
	expect := func(want string) {
		t.Helper()
		got, err := f.current()
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("got %v, %v, want %s", got, err, want)
		}
	}
	expect("192.0.2.1:53 192.0.2.2:53 192.0.2.3:53")
	if err := os.Rename(resolvConf(t, "192.0.2.9"), path); err != nil {
		t.Fatal(err)
	}
	expect("192.0.2.9:53")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("127.0.0.1:53")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.current(); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestLimits(t *testing.T) {
	l := newLimits()
	one, two := netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("172.30.0.3")
	var releases []func()
	for range queriesAtOnce {
		release, ok := l.take(one)
		if !ok {
			t.Fatal("a query within the limit was refused")
		}
		releases = append(releases, release)
	}
	if _, ok := l.take(one); ok {
		t.Error("too many at once")
	}
	if _, ok := l.take(two); !ok {
		t.Error("one guest's queries hinder another")
	}
	for _, release := range releases {
		release()
	}
	taken := 0
	for range 10 * queriesBurst {
		if release, ok := l.take(one); ok {
			taken++
			release()
		}
	}
	if taken < queriesBurst/2 || taken > 2*queriesBurst {
		t.Errorf("%d queries at a stroke, the burst is %d", taken, queriesBurst)
	}
	address := netip.MustParseAddr("10.0.0.0")
	for range 2 * maxGuests {
		address = address.Next()
		if release, ok := l.take(address); ok {
			release()
		}
	}
	if len(l.guests) > maxGuests {
		t.Errorf("%d guests are remembered, %d is the limit", len(l.guests), maxGuests)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	server := start(t, "/nonexistent")
	var last net.Conn
	for range streamsAtOnce + 1 {
		conn, err := net.Dial("tcp4", server)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		last = conn
	}
	last.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := last.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("one stream too many: read %d, %v, want its end", n, err)
	}
}

func TestGarbageIsSurvived(t *testing.T) {
	server := start(t, "/nonexistent")
	conn, err := net.Dial("udp4", server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, garbage := range []string{"", "\x00", strings.Repeat("\xff", 12), strings.Repeat("\xc0\x0c", 200), strings.Repeat("\x00", 4000)} {
		if _, err := conn.Write([]byte(garbage)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := brief(ask(t, "udp", server, question("web.vm.", dns.TypeA))), "NOERROR web.vm. 5 IN A 172.30.0.2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzAnswer checks that whatever unpacks is answered, and the answer packs.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.vm.", "2.0.30.172.in-addr.arpa.", "2." + strings.Repeat("0.", 29) + "d.f.ip6.arpa.", "example.org."} {
		seed, err := question(name, dns.TypeA).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	s := testServer("/nonexistent")
	h := &handler{server: s, forward: forwarder{path: s.ResolvConf}, limits: newLimits(), ctx: context.Background()}
	f.Fuzz(func(t *testing.T, data []byte) {
		q := new(dns.Msg)
		if q.Unpack(data) != nil {
			return
		}
		reply := h.answer(q)
		if reply == nil || reply.Id != q.Id || !reply.Response {
			t.Fatalf("reply %v to %v", reply, q)
		}
		reply.Truncate(dns.MinMsgSize)
		if _, err := reply.Pack(); err != nil {
			t.Logf("question %v: %v", q, err)
		}
	})
}
