package uplink

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"banger/internal/network/nft"
)

// A veth uplink needs the host to forward packets, and the host's own firewall to let them pass.

// forwardingMark is an empty table that says: forwarding was off before the first home turned it
// on. Like the switch it belongs to the host's network namespace, is one for all homes, and does
// not outlive the host's boot.
const forwardingMark = "banger-turned-on-forwarding"

// turnOnForwarding turns forwarding on. The uplink's table must be there: a home that restores
// looks for it.
func turnOnForwarding(f *nft.Family) error {
	now, err := os.ReadFile(f.ForwardSwitch)
	if err != nil {
		return fmt.Errorf("read forwarding: %w", err)
	}
	if strings.TrimSpace(string(now)) != "0" {
		return nil
	}
	if err := nft.Apply([]nft.Table{{Family: f.Table, Name: forwardingMark}}); err != nil {
		return fmt.Errorf("note forwarding: %w", err)
	}
	if err := os.WriteFile(f.ForwardSwitch, []byte("1"), 0); err != nil {
		return fmt.Errorf("turn on forwarding: %w", err)
	}
	return nil
}

// restoreForwarding turns forwarding off again when a home of ours turned it on and none needs it
// any more. Who else came to lean on it since cannot be seen.
func restoreForwarding(f *nft.Family) error {
	marked, err := forwardingMarked(f)
	if err != nil || !marked {
		return err
	}
	if needed, err := forwardingNeeded(f); err != nil || needed {
		return err
	}
	if err := os.WriteFile(f.ForwardSwitch, []byte("0"), 0); err != nil {
		return fmt.Errorf("restore forwarding: %w", err)
	}
	if err := nft.Remove(f.Table, forwardingMark); err != nil {
		return err
	}
	// A home that came up meanwhile may have found forwarding still on.
	needed, err := forwardingNeeded(f)
	if err != nil || !needed {
		return err
	}
	return turnOnForwarding(f)
}

func forwardingMarked(f *nft.Family) (bool, error) {
	return hasTable(f, func(name string) bool { return name == forwardingMark })
}

// forwardingNeeded reports whether any home has an uplink on this host that carries the version of
// IP.
func forwardingNeeded(f *nft.Family) (bool, error) {
	return hasTable(f, func(name string) bool { return strings.HasPrefix(name, hostTablePrefix) })
}

func hasTable(f *nft.Family, is func(name string) bool) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(f.Table)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return is(t.Name) }), nil
}

// allowForward has the host's own firewall let pass what the uplink's link sends and gets, where
// that drops what it does not know, as Docker's and ufw's do: a packet must be accepted by every
// table. What our own table drops stays dropped. It sees the firewalls that nft(8) and
// iptables-nft(8) make, iptables-legacy's are hidden.
func allowForward(link string) error {
	conn, chains, err := foreignForwardChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		if c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop {
			continue
		}
		for _, match := range []nft.Clause{nft.InInterface(link), nft.OutInterface(link)} {
			// The counter is what iptables(8) needs to show the rule.
			exprs := slices.Concat(match.Exprs, []expr.Any{&expr.Counter{}}, nft.Accept.Exprs)
			conn.InsertRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs, UserData: allowComment(link)})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("let the host's firewall pass %s: %w", link, err)
	}
	return nil
}

// disallowForward takes back what allowForward did.
func disallowForward(link string) error {
	conn, chains, err := foreignForwardChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return fmt.Errorf("list rules of %s: %w", c.Table.Name, err)
		}
		for _, r := range rules {
			if !bytes.Equal(r.UserData, allowComment(link)) {
				continue
			}
			if err := conn.DelRule(r); err != nil {
				return fmt.Errorf("delete rule of %s: %w", c.Table.Name, err)
			}
		}
	}
	if err := conn.Flush(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("take %s out of the host's firewall: %w", link, err)
	}
	return nil
}

// allowComment marks our rules in tables of others, as a comment that nft(8) and iptables(8) show.
func allowComment(link string) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, "banger "+link)
}

// foreignForwardChains lists the chains for forwarded packets in tables that are not ours, and the
// connection to change them by.
func foreignForwardChains() (*nftables.Conn, []*nftables.Chain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables: %w", err)
	}
	all, err := conn.ListChains()
	if err != nil {
		return nil, nil, fmt.Errorf("list nftables chains: %w", err)
	}
	families := []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet}
	return conn, slices.DeleteFunc(all, func(c *nftables.Chain) bool {
		forward := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter
		return !forward || !slices.Contains(families, c.Table.Family) ||
			strings.HasPrefix(c.Table.Name, hostTablePrefix)
	}), nil
}
