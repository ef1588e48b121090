package network

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// table, chain, set and rule are a small part of nftables, each able to write itself as text and to add itself to a batch.
type table struct {
	family nftables.TableFamily
	name   string
	sets   []set
	chains []chain
}

type chain struct {
	name     string
	kind     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	drop     bool // the policy for what no rule decides; else accept
	rules    []rule
}

// rule is matches, which all must hold, and a verdict.
type rule []clause

// clause is a part of a rule, in both its forms.
type clause struct {
	text  string
	exprs []expr.Any
}

type set struct {
	name     string
	kind     setKind
	elements []element
	dynamic  bool          // filled by rules
	timeout  time.Duration // after which a dynamic set forgets an element that is not used; 0: as its condition says
}

type setKind struct {
	text string
	key  nftables.SetDatatype
}

type element struct {
	text string
	key  []byte
}

var kindInterface = setKind{"ifname", nftables.TypeIFName}

var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyBridge: "bridge", nftables.TableFamilyIPv4: ip4.name, nftables.TableFamilyIPv6: ip6.name,
}

var hookNames = map[nftables.ChainHook]string{
	*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookInput: "input",
	*nftables.ChainHookForward: "forward", *nftables.ChainHookPostrouting: "postrouting",
}

func (t table) write(b *strings.Builder) {
	fmt.Fprintf(b, "table %s %s {\n", familyNames[t.family], t.name)
	for _, s := range t.sets {
		fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", s.name, s.kind.text)
		if s.dynamic && s.timeout != 0 {
			fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic,timeout\n\t\ttimeout %ds\n", dynamicSize, int(s.timeout.Seconds()))
		} else if s.dynamic {
			fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic\n", dynamicSize)
		}
		if len(s.elements) > 0 {
			texts := make([]string, len(s.elements))
			for i, e := range s.elements {
				texts[i] = e.text
			}
			fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(texts, ", "))
		}
		b.WriteString("\t}\n")
	}
	for _, c := range t.chains {
		fmt.Fprintf(b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy %s;\n", c.name, c.kind, hookNames[c.hook], c.priority, c.policyText())
		for _, r := range c.rules {
			texts := make([]string, len(r))
			for i, clause := range r {
				texts[i] = clause.text
			}
			fmt.Fprintf(b, "\t\t%s\n", strings.Join(texts, " "))
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
}

func (c chain) policyText() string {
	if c.drop {
		return "drop"
	}
	return "accept"
}

// applyRules puts tables in place of those with their names, in one transaction. A packet that
// comes meanwhile may be dropped, and none passes that should not.
func applyRules(tables []table) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, t := range tables {
		if err := t.add(conn); err != nil {
			return fmt.Errorf("plan nftables table %s: %w", t.name, err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("apply nftables rules: %w", err)
	}
	return nil
}

// refillSets puts the sets' elements in place of those that tables in force have, in one transaction. It leaves chains
// alone: replacing one with a policy of drop would drop packets between. What dynamic sets count goes on.
func refillSets(tables []table) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, t := range tables {
		target := &nftables.Table{Family: t.family, Name: t.name}
		for _, s := range t.sets {
			if s.dynamic {
				continue
			}
			made := s.in(target)
			conn.FlushSet(made)
			if err := conn.SetAddElements(made, s.contents()); err != nil {
				return fmt.Errorf("fill set %s: %w", s.name, err)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("apply nftables sets: %w", err)
	}
	return nil
}

// dynamicSize bounds a dynamic set: more than the ports of a network.
const dynamicSize = 4096

func (s set) in(t *nftables.Table) *nftables.Set {
	made := &nftables.Set{Table: t, Name: s.name, KeyType: s.kind.key, Concatenation: strings.Contains(s.kind.text, " . ")}
	if s.kind == kindInterface {
		made.KeyByteOrder = binaryutil.NativeEndian // for nft(8), which could not show the names otherwise
	}
	if s.dynamic {
		made.Dynamic, made.HasTimeout, made.Timeout, made.Size = true, s.timeout != 0, s.timeout, dynamicSize
	}
	return made
}

func (s set) contents() []nftables.SetElement {
	elements := make([]nftables.SetElement, len(s.elements))
	for i, e := range s.elements {
		elements[i].Key = e.key
	}
	return elements
}

// removeTable deletes a table with all in it; a missing one is no error.
func removeTable(family nftables.TableFamily, name string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := conn.AddTable(&nftables.Table{Family: family, Name: name}) // so that deleting it cannot miss
	conn.DelTable(t)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

func (t table) add(conn *nftables.Conn) error {
	target := &nftables.Table{Family: t.family, Name: t.name}
	conn.AddTable(target) // so that deleting it cannot miss
	conn.DelTable(target)
	conn.AddTable(target)
	for _, s := range t.sets {
		if err := conn.AddSet(s.in(target), s.contents()); err != nil {
			return fmt.Errorf("add set %s: %w", s.name, err)
		}
	}
	for _, c := range t.chains {
		policy := nftables.ChainPolicyAccept
		if c.drop {
			policy = nftables.ChainPolicyDrop
		}
		made := conn.AddChain(&nftables.Chain{Table: target, Name: c.name, Type: c.kind, Hooknum: &c.hook, Priority: &c.priority, Policy: &policy})
		for _, r := range c.rules {
			var exprs []expr.Any
			for _, clause := range r {
				exprs = append(exprs, clause.exprs...)
			}
			conn.AddRule(&nftables.Rule{Table: target, Chain: made, Exprs: exprs})
		}
	}
	return nil
}
