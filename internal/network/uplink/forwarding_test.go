package uplink_test

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"

	"banger/internal/network"
	"banger/internal/network/nettest"
	"banger/internal/network/nft"
)

// Docker on the host makes FORWARD's policy drop, which no accept in a table of ours can overrule.
func TestForeignFirewall(t *testing.T) {
	if !nettest.InHost(t) {
		return
	}
	h := nettest.NewWorld(t).Home("a", network.DefaultSubnet, false)
	foreign := nft.Table{Family: nftables.TableFamilyIPv4, Name: "filter", Chains: []nft.Chain{
		{Name: "FORWARD", Kind: nftables.ChainTypeFilter, Hook: *nftables.ChainHookForward, Priority: 0, Drop: true},
		{Name: "INPUT", Kind: nftables.ChainTypeFilter, Hook: *nftables.ChainHookInput, Priority: 0, Rules: []nft.Rule{{nft.InInterface("lo"), nft.Accept}}},
	}}
	nettest.Check(t, nft.Apply([]nft.Table{foreign}))
	t.Cleanup(func() { nettest.Check(t, nft.Remove(foreign.Family, foreign.Name)) })
	before := listTable(t, "filter")

	nettest.Check(t, h.Ensure(t.Context()))
	one := h.Boot(h.Endpoint("one", 2, network.Policy{NAT: true}))
	h.AwaitUplink(t)
	one.Want("hello", "tcp", nettest.InternetAddress+":7")
	one.Want("error", "tcp", nettest.OtherAddress+":7")
	nettest.Kill(t, h.KeeperPID(t), h.NotHeld) // its rules are replaced, not added to
	nettest.Check(t, h.Ensure(t.Context()))
	h.AwaitUplink(t)
	if got := strings.Count(listTable(t, "filter"), `accept comment "banger bgr-`); got != 2 {
		t.Errorf("there are %d rules, want one each way:\n%s", got, listTable(t, "filter"))
	}
	nettest.Check(t, h.Stop(t.Context()))
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
	if !nettest.InHost(t) {
		return
	}
	w := nettest.NewWorld(t)
	first, second := w.Home("a", network.DefaultSubnet, false), w.Home("b", netip.MustParsePrefix("172.31.0.0/16"), false)
	want := func(when, value string) {
		t.Helper()
		got, err := os.ReadFile(nft.IP4.ForwardSwitch)
		nettest.Check(t, err)
		if strings.TrimSpace(string(got)) != value {
			t.Errorf("%s forwarding is %s, want %s", when, got, value)
		}
	}
	nettest.Check(t, os.WriteFile(nft.IP4.ForwardSwitch, []byte("0"), 0)) // a new namespace has what the real host has
	nettest.Check(t, first.Ensure(t.Context()))
	nettest.Check(t, second.Ensure(t.Context()))
	want("with two", "1")
	nettest.Check(t, first.Stop(t.Context()))
	want("with one", "1")
	nettest.Check(t, second.Stop(t.Context()))
	want("after", "0")
	if rules := nettest.NFT(t, "list ruleset"); strings.Contains(rules, "banger") {
		t.Errorf("rules are left:\n%s", rules)
	}
	nettest.Check(t, os.WriteFile(nft.IP4.ForwardSwitch, []byte("1"), 0)) // by somebody else
	nettest.Check(t, first.Ensure(t.Context()))
	nettest.Check(t, first.Stop(t.Context()))
	want("on a host that forwards", "1")
}
