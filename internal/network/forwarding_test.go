package network

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"
)

// Docker on the host makes FORWARD's policy drop, which no accept in a table of ours can overrule.
func TestForeignFirewall(t *testing.T) {
	if !inHost(t) {
		return
	}
	h := newWorld(t).home("a", DefaultSubnet, false)
	foreign := table{family: nftables.TableFamilyIPv4, name: "filter", chains: []chain{
		{name: "FORWARD", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookForward, priority: 0, drop: true},
		{name: "INPUT", kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookInput, priority: 0, rules: []rule{{inInterface("lo"), accept}}},
	}}
	check(t, applyRules([]table{foreign}))
	t.Cleanup(func() { check(t, removeTable(foreign.family, foreign.name)) })
	before := listTable(t, "filter")

	check(t, h.Ensure(t.Context()))
	one := h.boot(h.port("one", 2, Policy{NAT: true}))
	h.awaitUplink(t)
	one.want("hello", "tcp", internetAddress+":7")
	one.want("error", "tcp", otherAddress+":7")
	kill(t, h.keeperPID(t), h.notHeld) // its rules are replaced, not added to
	check(t, h.Ensure(t.Context()))
	h.awaitUplink(t)
	if got := strings.Count(listTable(t, "filter"), `accept comment "banger bgr-`); got != 2 {
		t.Errorf("there are %d rules, want one each way:\n%s", got, listTable(t, "filter"))
	}
	check(t, h.Stop(t.Context()))
	if after := listTable(t, "filter"); after != before {
		t.Errorf("the host's firewall is not as it was:\n%s", after)
	}
}

func listTable(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nft", "list", "table", "ip", name).CombinedOutput()
	if err != nil {
		t.Fatalf("nft list table: %v\n%s", err, out)
	}
	return string(out)
}

// The last home that ends turns forwarding off, whichever turned it on.
func TestForwardingOfTwoHomes(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	first, second := w.home("a", DefaultSubnet, false), w.home("b", netip.MustParsePrefix("172.31.0.0/16"), false)
	want := func(when, value string) {
		t.Helper()
		got, err := os.ReadFile(ip4.forwardSwitch)
		check(t, err)
		if strings.TrimSpace(string(got)) != value {
			t.Errorf("%s forwarding is %s, want %s", when, got, value)
		}
	}
	check(t, os.WriteFile(ip4.forwardSwitch, []byte("0"), 0)) // a new namespace has what the real host has
	check(t, first.Ensure(t.Context()))
	check(t, second.Ensure(t.Context()))
	want("with two", "1")
	check(t, first.Stop(t.Context()))
	want("with one", "1")
	check(t, second.Stop(t.Context()))
	want("after", "0")
	if marked, err := forwardingMarked(ip4); err != nil || marked {
		t.Errorf("marked %t, %v, want nothing left", marked, err)
	}
	check(t, os.WriteFile(ip4.forwardSwitch, []byte("1"), 0)) // by somebody else
	check(t, first.Ensure(t.Context()))
	check(t, first.Stop(t.Context()))
	want("on a host that forwards", "1")
}
