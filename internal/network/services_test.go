package network

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
)

func TestCheckHostServices(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ports []int
		words string // of the error; empty: fine
	}{
		{"None", nil, ""},
		{"OK", []int{1, 80, 65535}, ""},
		{"ErrZero", []int{0}, "no TCP port"},
		{"ErrNegative", []int{-1}, "no TCP port"},
		{"ErrLarge", []int{65536}, "no TCP port"},
		{"ErrDNS", []int{53}, "name server"},
		{"ErrTwice", []int{80, 81, 80}, "80 is named twice"},
		{"ErrMany", make([]int, maxHostServices+1), "at most 64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckHostServices(tt.ports)
			if (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("CheckHostServices(%v) = %v, want %q", tt.ports, err, tt.words)
			}
		})
	}
}

// A service of the host's is reached by the VM that it was published to, and by no other, until that is taken back.
func TestHostServices(t *testing.T) {
	if !inHost(t) {
		return
	}
	for name, rootless := range modes {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.home("a", DefaultSubnet, rootless)
			check(t, h.Ensure(t.Context()))
			one := h.boot(h.port("one", 2, Policy{HostServices: []int{7, 9}}))
			two := h.boot(h.port("two", 3, Policy{NAT: true, HostServices: []int{9}}))
			const service, dead, unpublished = "172.30.0.1:7", "172.30.0.1:9", "172.30.0.1:11"
			rules := func() {
				t.Helper()
				one.want("hello 127.0.0.1", "tcp", service)
				one.want("error", "tcp", dead) // nobody listens there
				one.want("error", "tcp", unpublished)
				two.want("error", "tcp", service)
			}
			rules()
			one.want("hello", "keep", service)
			if got := one.do("again", "", ""); got != "again" {
				t.Errorf("a connection that stands says %q", got)
			}
			check(t, h.SetPolicy(t.Context(), two.Port.ID, Policy{HostServices: []int{7, 9}}))
			two.want("hello", "tcp", service)
			check(t, h.SetPolicy(t.Context(), two.Port.ID, Policy{HostServices: []int{9}}))
			rules()
			if got := one.do("again", "", ""); got != "again" {
				t.Errorf("after another's change, a connection that stands says %q", got)
			}
			pid := h.keeperPID(t)
			kill(t, pid, func() bool { held, err := h.held(); return err == nil && !held })
			one.want("error", "tcp", service)
			check(t, h.Ensure(t.Context()))
			rules()
			one.want("hello", "keep", service)
			check(t, h.SetPolicy(t.Context(), one.Port.ID, Policy{HostServices: []int{9}}))
			one.want("error", "again", "")
			one.want("error", "tcp", service)
			if err := h.SetPolicy(t.Context(), one.Port.ID, Policy{HostServices: []int{53}}); err == nil {
				t.Error("the name server's port was published")
			}
		})
	}
}

// The host asks the gateway for names of VMs once it was told to, and whenever the network comes up.
func TestRouteDNS(t *testing.T) {
	if !inHost(t) {
		return
	}
	bin := t.TempDir()
	calls := filepath.Join(bin, "calls")
	check(t, os.WriteFile(filepath.Join(bin, "resolvectl"), []byte("#!/bin/sh\necho \"$@\" >>"+calls+"\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	told := func() string {
		text, err := os.ReadFile(calls)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		check(t, os.WriteFile(calls, nil, 0o600))
		return string(text)
	}
	w := newWorld(t)
	h := w.home("a", DefaultSubnet, false)
	check(t, h.Ensure(t.Context()))
	_, err := h.Attach(t.Context(), h.port("one", 2, Policy{}))
	check(t, err)
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network}
		reply, _, err := client.ExchangeContext(t.Context(), new(dns.Msg).SetQuestion("one.vm.", dns.TypeA), "172.30.0.1:53")
		if err != nil || len(reply.Answer) != 1 || !strings.HasSuffix(reply.Answer[0].String(), "172.30.0.2") {
			t.Errorf("the host asks by %s: %v, %v", network, reply, err)
		}
	}
	if got := told(); got != "" || h.DNSRouted() {
		t.Errorf("nobody asked for it, but resolved was told %q", got)
	}
	link := newVeth(h.d, DefaultSubnet).link
	route := "dns " + link + " 172.30.0.1\ndomain " + link + " ~vm\ndefault-route " + link + " false\n"
	check(t, h.RouteDNS(t.Context()))
	if got := told(); got != "status\n"+route || !h.DNSRouted() {
		t.Errorf("resolved was told\n%s", got)
	}
	check(t, h.Stop(t.Context()))
	check(t, h.Ensure(t.Context()))
	if got := told(); got != route {
		t.Errorf("when the network came up, resolved was told\n%s", got)
	}
	for _, want := range []string{"revert " + link + "\n", ""} {
		check(t, h.UnrouteDNS(t.Context()))
		if got := told(); got != want || h.DNSRouted() {
			t.Errorf("resolved was told %q, want %q", got, want)
		}
	}
	if err := NewClient(w.root, true, nil).RouteDNS(t.Context()); err == nil {
		t.Error("an ordinary user's network was routed")
	}
}

// Purge leaves nothing, whatever was killed before.
func TestPurge(t *testing.T) {
	if !inHost(t) {
		return
	}
	for name, rootless := range modes {
		for _, killed := range []string{"nothing", "keeper", "both"} {
			t.Run(name+"/"+killed, func(t *testing.T) {
				w := newWorld(t)
				before := hostLinks(t)
				forwarded, err := os.ReadFile(ip4.forwardSwitch) // a new namespace has the host's
				forwarded6 := forwards6(t)
				check(t, err)
				h := w.home("a", DefaultSubnet, rootless)
				check(t, h.Purge(t.Context())) // of a home that never had one
				check(t, h.Ensure(t.Context()))
				_, err = h.Attach(t.Context(), h.port("one", 2, Policy{}))
				check(t, err)
				status, err := h.Status(t.Context())
				check(t, err)
				keeper := h.keeperPID(t)
				if killed != "nothing" {
					kill(t, keeper, func() bool { held, err := h.held(); return err == nil && !held })
				}
				if killed == "both" {
					kill(t, status.HolderPID, func() bool { return syscall.Kill(status.HolderPID, 0) != nil })
				}
				for range 2 {
					check(t, h.Purge(t.Context()))
				}
				if after := hostLinks(t); after != before {
					t.Errorf("links before and after:\n%s\n%s", before, after)
				}
				if rules := nft(t, "list ruleset"); strings.Contains(rules, "banger") {
					t.Errorf("rules are left:\n%s", rules)
				}
				if forwarding, _ := os.ReadFile(ip4.forwardSwitch); string(forwarding) != string(forwarded) {
					t.Errorf("forwarding was %q and is %q", forwarded, forwarding)
				}
				if now := forwards6(t); now != forwarded6 {
					t.Errorf("IPv6 forwarding was %q and is %q", forwarded6, now)
				}
				await(t, "end of the holder", func() bool { return syscall.Kill(status.HolderPID, 0) != nil })
			})
		}
	}
}
