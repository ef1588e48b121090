package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"

	"banger/internal/network"
	"banger/internal/network/namespace"
	"banger/internal/network/plan"
)

// fakeUplink is one that works.
type fakeUplink struct{}

func (fakeUplink) MTU() int       { return 1500 }
func (fakeUplink) State() string  { return network.UplinkUp }
func (fakeUplink) State6() string { return network.UplinkUp }
func (fakeUplink) Close() error   { return nil }

// newKeeper is a keeper of a network with one endpoint, that enforces nothing yet and notes
// nothing.
func newKeeper(enforcers ...enforcer) *keeper {
	k := &keeper{
		config: Config{Subnet: network.DefaultSubnet}, log: slog.New(slog.DiscardHandler), inside: &namespace.Namespace{PID: 17},
		uplink: fakeUplink{}, writer: make(chan struct{}, 1), enforcers: enforcers,
		remember: func([]network.Endpoint) error { return nil },
	}
	k.now.Store(
		newSnapshot(plan.State{Subnet: network.DefaultSubnet, MTU: 1500, IPv6: true, Endpoints: []network.Endpoint{endpoint("one", 2)}}),
	)
	return k
}

func endpoint(name string, n byte) network.Endpoint {
	address := netip.AddrFrom4([4]byte{172, 30, 0, n})
	return network.Endpoint{ID: "id-" + name, Name: name, Address: address, MAC: network.MAC(address)}
}

func names(s plan.State) string {
	var all []string
	for _, p := range s.Endpoints {
		all = append(all, p.Name)
	}
	return strings.Join(all, " ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// While the holder stands still, whoever only reads has its answer, and whoever would change
// something too ends in time.
func TestHolderStandsStill(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan error)
	k := newKeeper(func(plan.State) error { close(asked); return <-answer })
	first := make(chan error, 1)
	go func() { first <- k.change(t.Context(), attach(endpoint("two", 3))) }()
	<-asked

	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	streams, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	ctx, end := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- k.nameServer().Serve(ctx, packets, streams) }()
	defer func() { end(); <-served }()

	const soon = 250 * time.Millisecond // a millisecond is usual
	began := time.Now()
	client := mdns.Client{Net: "tcp", Timeout: 5 * time.Second}
	reply, _, err := client.ExchangeContext(ctx, new(mdns.Msg).SetQuestion("one.vm.", mdns.TypeA), streams.Addr().String())
	must(t, err)
	if len(reply.Answer) != 1 || !strings.HasSuffix(reply.Answer[0].String(), "172.30.0.2") || time.Since(began) > soon {
		t.Errorf("the name server says %v after %s", reply, time.Since(began))
	}
	began = time.Now()
	recorder := httptest.NewRecorder()
	k.routes().ServeHTTP(recorder, httptest.NewRequestWithContext(ctx, http.MethodGet, "/status", nil))
	var status network.Status
	must(t, json.Unmarshal(recorder.Body.Bytes(), &status))
	if len(status.Endpoints) != 1 || status.Endpoints[0].Name != "one" || time.Since(began) > soon {
		t.Errorf("status is %+v after %s, want what the holder has made", status, time.Since(began))
	}

	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := k.change(short, detach("id-one")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second change: got %v, want the end of its context", err)
	}
	answer <- nil
	must(t, <-first)
	if got := names(k.now.Load().State); got != "one two" {
		t.Errorf("endpoints are %q, want one two", got)
	}
}

// A change that waits longer than its client does is given up.
func TestChangeWaitsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper()
		end, err := k.beginWrite(t.Context())
		must(t, err)
		began := time.Now()
		if err := k.change(t.Context(), detach("id-one")); err == nil || !strings.Contains(err.Error(), "50s") ||
			time.Since(began) != writerTimeout {
			t.Errorf("got %v after %s, want an error that tells how long it waited", err, time.Since(began))
		}
		end()
		must(t, k.change(t.Context(), detach("id-one")))
	})
}

// A change whose client is gone when its turn comes is not begun; one that has begun is brought to
// its end.
func TestChangeAndItsContext(t *testing.T) {
	var told []string
	k := newKeeper(func(s plan.State) error { told = append(told, names(s)); return nil })
	ctx, cancel := context.WithCancel(t.Context())
	must(t, k.change(ctx, func(s *plan.State) error { cancel(); return attach(endpoint("two", 3))(s) }))
	if err := k.change(ctx, attach(endpoint("three", 4))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's end", err)
	}
	if want := []string{"one two"}; !slices.Equal(told, want) {
		t.Errorf("the holder was told %q, want %q", told, want)
	}
}

// A policy goes down whole to all that enforces it, in their order, and is shown when all have it.
func TestPolicyGoesDown(t *testing.T) {
	want := network.Policy{NAT: true, Isolated: true, HostServices: []int{80, 5432}}
	var told []string
	var k *keeper
	var enforcers []enforcer
	for i := range 3 {
		enforcers = append(enforcers, func(s plan.State) error {
			told = append(told, fmt.Sprint(i, s.Endpoints[0].Policy))
			if shown := k.now.Load().Endpoints[0].Policy; shown.NAT {
				t.Errorf("%+v is shown before it is enforced", shown)
			}
			return nil
		})
	}
	k = newKeeper(enforcers...)
	must(t, k.change(t.Context(), setPolicy("id-one", want)))
	if wanted := []string{fmt.Sprint(0, want), fmt.Sprint(1, want), fmt.Sprint(2, want)}; !slices.Equal(told, wanted) {
		t.Errorf("told %q, want %q", told, wanted)
	}
	if got := k.now.Load().Endpoints[0].Policy; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v is shown, want %+v", got, want)
	}
}

// All that acts on the state acts on the one before when one of them fails, and nobody reads the
// other.
func TestEnforceFails(t *testing.T) {
	failure, stuck := errors.New("failure"), errors.New("stuck")
	for _, tt := range []struct {
		name      string
		failAt    int // which enforcer fails when it is told of two endpoints
		stuckAt   int // which fails when it is told of one; -1: none
		want      string
		unsettled bool
	}{
		{"Rules", 0, -1, "0:one two, 0:one", false},
		{"Services", 1, -1, "0:one two, 1:one two, 1:one, 0:one", false},
		{"Relay", 2, -1, "0:one two, 1:one two, 2:one two, 2:one, 1:one, 0:one", false},
		{"RulesStuck", 1, 0, "0:one two, 1:one two, 1:one, 0:one", true},
		{"ServicesStuck", 1, 1, "0:one two, 1:one two, 1:one, 0:one", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var told []string
			var enforcers []enforcer
			for i := range 3 {
				enforcers = append(enforcers, func(s plan.State) error {
					told = append(told, fmt.Sprintf("%d:%s", i, names(s)))
					switch n := len(s.Endpoints); {
					case n == 2 && i == tt.failAt:
						return failure
					case n == 1 && i == tt.stuckAt:
						return stuck
					}
					return nil
				})
			}
			k := newKeeper(enforcers...)
			err := k.change(t.Context(), attach(endpoint("two", 3)))
			if !errors.Is(err, failure) || errors.Is(err, stuck) != (tt.stuckAt >= 0) {
				t.Errorf("got %v, want the failure, and what could not be put back", err)
			}
			if got := strings.Join(told, ", "); got != tt.want {
				t.Errorf("told %s, want %s", got, tt.want)
			}
			if got := names(k.now.Load().State); got != "one" || k.unsettled.Load() != tt.unsettled {
				t.Errorf("endpoints are %q, unsettled %t, want one, %t", got, k.unsettled.Load(), tt.unsettled)
			}
		})
	}
}

// pass lets time pass in a bubble, and everybody do what is due by then.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// Rules that could not be put back are tried again until they are.
func TestSettleRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		var failing atomic.Bool
		failing.Store(true)
		k := newKeeper(func(s plan.State) error {
			told = append(told, names(s))
			if failing.Load() {
				return errors.New("stuck")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		settled := make(chan error, 1)
		go func() { settled <- k.settle(ctx) }()
		if err := k.change(ctx, attach(endpoint("two", 3))); err == nil {
			t.Error("a change that failed is no error")
		}
		pass(settleInterval + time.Second)
		failing.Store(false)
		pass(2 * settleInterval)
		// The change and what puts it back; a try that fails and puts back; one that succeeds, and
		// no more.
		if want := []string{"one two", "one", "one", "one", "one"}; !slices.Equal(told, want) || k.unsettled.Load() {
			t.Errorf("told %q, unsettled %t, want %q", told, k.unsettled.Load(), want)
		}
		cancel()
		<-settled
	})
}

// A note that cannot be written fails no change, which has been made, and is written as soon as
// that is possible.
func TestNoteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(func(plan.State) error { return nil })
		var noted []string
		var full atomic.Bool
		full.Store(true)
		k.remember = func(endpoints []network.Endpoint) error {
			if full.Load() {
				return errors.New("no space left on device")
			}
			noted = append(noted, names(plan.State{Endpoints: endpoints}))
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		settled := make(chan error, 1)
		go func() { settled <- k.settle(ctx) }()
		must(t, k.change(ctx, attach(endpoint("two", 3))))
		must(t, k.change(ctx, detach("id-one")))
		if got := names(k.now.Load().State); got != "two" {
			t.Errorf("endpoints are %q, want those of the changes", got)
		}
		full.Store(false)
		pass(3 * settleInterval)
		if want := []string{"two"}; !slices.Equal(noted, want) {
			t.Errorf("noted %q, want %q once", noted, want)
		}
		cancel()
		<-settled
	})
}

func TestEdits(t *testing.T) {
	renamed, moved, closed := endpoint("one", 2), endpoint("one", 9), endpoint("one", 2)
	renamed.Name = "uno"
	closed.Policy = network.Policy{Isolated: true, HostServices: []int{80}}
	same := func(edit func(*network.Endpoint)) network.Endpoint { p := endpoint("three", 5); edit(&p); return p }
	for _, tt := range []struct {
		name string
		edit func(*plan.State) error
		want string // endpoints, or a part of the error
	}{
		{"Attach", attach(endpoint("three", 5)), "one two three"},
		{"Again", attach(endpoint("one", 2)), "one two"},
		{"Rename", attach(renamed), "uno two"},
		{"ErrMoved", attach(moved), "detach it first"},
		{"ErrAddress", attach(same(func(p *network.Endpoint) { p.Address = endpoint("", 2).Address })), "already"},
		{"ErrMAC", attach(same(func(p *network.Endpoint) { p.MAC = endpoint("", 2).MAC })), "already"},
		{"ErrName", attach(same(func(p *network.Endpoint) { p.Name = "one" })), "already"},
		{"ErrCheck", attach(same(func(p *network.Endpoint) { p.Name = "a.b" })), "no DNS label"},
		{"Detach", detach("id-one"), "two"},
		{"DetachNothing", detach("id-three"), "one two"},
		{"Policy", setPolicy("id-one", closed.Policy), "one two"},
		{"ErrPolicyOfNobody", setPolicy("id-three", closed.Policy), network.ErrNotFound.Error()},
		{"ErrService", setPolicy("id-one", network.Policy{HostServices: []int{53}}), "name server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := plan.State{Subnet: network.DefaultSubnet, Endpoints: []network.Endpoint{endpoint("one", 2), endpoint("two", 3)}}
			err := tt.edit(&s)
			got := names(s)
			if err != nil {
				got = err.Error()
			}
			if got != tt.want &&
				(strings.HasPrefix(tt.name, "Err") && !strings.Contains(got, tt.want) || !strings.HasPrefix(tt.name, "Err")) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if tt.name == "Policy" && !slices.Equal(s.Endpoints[0].HostServices, []int{80}) {
				t.Errorf("the policy is %+v, want it whole", s.Endpoints[0].Policy)
			}
		})
	}
}

func TestEndpointsAreBounded(t *testing.T) {
	s := plan.State{Subnet: network.DefaultSubnet}
	for i := range maxEndpoints + 1 {
		p := endpoint(fmt.Sprint("n", i), 0)
		p.Address = netip.AddrFrom4([4]byte{172, 30, byte(1 + i/250), byte(2 + i%250)})
		p.MAC = network.MAC(p.Address)
		if err := attach(p)(&s); (err != nil) != (i == maxEndpoints) {
			t.Fatalf("endpoint %d: %v", i, err)
		}
	}
}

func TestRemember(t *testing.T) {
	d := network.Dir(t.TempDir())
	if got, err := remembered(d); err != nil || got != nil {
		t.Errorf("before any note: %v, %v", got, err)
	}
	must(t, remember(d, []network.Endpoint{endpoint("one", 2)}))
	must(t, remember(d, []network.Endpoint{endpoint("two", 3)}))
	if got, err := remembered(d); err != nil || names(plan.State{Endpoints: got}) != "two" {
		t.Errorf("got %v, %v, want the last note", got, err)
	}
	if remember(network.Dir(filepath.Join(string(d), "none")), nil) == nil {
		t.Error("a note that could not be written is no error")
	}
	must(t, os.WriteFile(d.EndpointsNote(), []byte("{"), 0o600))
	if _, err := remembered(d); err == nil {
		t.Error("a torn note is no error")
	}
}

func TestSnapshot(t *testing.T) {
	s := newSnapshot(
		plan.State{Subnet: network.DefaultSubnet, MTU: 1500, IPv6: true, Outside6: true, Endpoints: []network.Endpoint{endpoint("one", 2)}},
	)
	if got := fmt.Sprint(s.lookup("ONE"), s.lookup("two"), s.subnets()); got != "[172.30.0.2 fd62:616e:6765::ac1e:2] [] [172.30.0.0/16 fd62:616e:6765::ac1e:0/112]" {
		t.Errorf("got %s", got)
	}
	for _, a := range s.lookup("one") {
		if s.byAddress[a] != "one" {
			t.Errorf("%s is %q", a, s.byAddress[a])
		}
	}
	if got := fmt.Sprint(s.tap(endpoint("one", 2))); got != "{tapac1e0002 1500 fd62:616e:6765::ac1e:2/112 fd62:616e:6765::ac1e:1}" {
		t.Errorf("the tap is %s", got)
	}
}
