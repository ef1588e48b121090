// Package nft puts nftables' tables together from rules that know both their forms: the text that
// nft(8) reads, which tests compare, and the expressions that the kernel takes. It knows IPv4 and
// IPv6 as one thing twice (Family), and nothing of what the rules are for.
package nft

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Table is sets and chains for one family of packets. With Chain, Set and Rule it is a small part
// of nftables, each able to write itself as text and to add itself to a batch.
type Table struct {
	Family nftables.TableFamily
	Name   string
	Sets   []Set
	Chains []Chain
}

// Chain is rules at one place of a packet's way.
type Chain struct {
	Name     string
	Kind     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Drop     bool // the policy for what no rule decides; else accept
	Rules    []Rule
}

// Rule is matches, which all must hold, and a verdict.
type Rule []Clause

// Clause is a part of a rule, in both its forms.
type Clause struct {
	text  string
	Exprs []expr.Any
}

// Set is keys that rules look up.
type Set struct {
	Name     string
	Kind     SetKind
	Elements []Element
	Dynamic  bool          // filled by rules
	Timeout  time.Duration // after which a dynamic set forgets an element that is not used; 0: as its condition says
}

// SetKind says what a set's keys are.
type SetKind struct {
	text string
	key  nftables.SetDatatype
}

// Element is one key of a set.
type Element struct {
	text string
	key  []byte
}

// KindInterface is a set of interfaces' names.
var KindInterface = SetKind{"ifname", nftables.TypeIFName}

var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyBridge: "bridge", nftables.TableFamilyIPv4: IP4.name, nftables.TableFamilyIPv6: IP6.name,
}

var hookNames = map[nftables.ChainHook]string{
	*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookInput: "input",
	*nftables.ChainHookForward: "forward", *nftables.ChainHookPostrouting: "postrouting",
}

// Text returns tables as nft(8) reads them.
func Text(tables []Table) string {
	var b strings.Builder
	for _, t := range tables {
		t.write(&b)
	}
	return b.String()
}

func (t Table) write(b *strings.Builder) {
	fmt.Fprintf(b, "table %s %s {\n", familyNames[t.Family], t.Name)
	for _, s := range t.Sets {
		fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", s.Name, s.Kind.text)
		if s.Dynamic && s.Timeout != 0 {
			fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic,timeout\n\t\ttimeout %ds\n", dynamicSize,
				int(s.Timeout.Seconds()))
		} else if s.Dynamic {
			fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic\n", dynamicSize)
		}
		if len(s.Elements) > 0 {
			texts := make([]string, len(s.Elements))
			for i, e := range s.Elements {
				texts[i] = e.text
			}
			fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(texts, ", "))
		}
		b.WriteString("\t}\n")
	}
	for _, c := range t.Chains {
		fmt.Fprintf(b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy %s;\n", c.Name, c.Kind, hookNames[c.Hook],
			c.Priority, c.policyText())
		for _, r := range c.Rules {
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

func (c Chain) policyText() string {
	if c.Drop {
		return "drop"
	}
	return "accept"
}

// Apply puts tables in place of those with their names, in one transaction. A packet that
// comes meanwhile may be dropped, and none passes that should not.
func Apply(tables []Table) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, t := range tables {
		if err := t.add(conn); err != nil {
			return fmt.Errorf("plan nftables table %s: %w", t.Name, err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("apply nftables rules: %w", err)
	}
	return nil
}

// Refill puts the sets' elements in place of those that tables in force have, in one transaction.
// It leaves chains alone: replacing one with a policy of drop would drop packets between. What
// dynamic sets count goes on.
func Refill(tables []Table) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, t := range tables {
		target := &nftables.Table{Family: t.Family, Name: t.Name}
		for _, s := range t.Sets {
			if s.Dynamic {
				continue
			}
			made := s.in(target)
			conn.FlushSet(made)
			if err := conn.SetAddElements(made, s.contents()); err != nil {
				return fmt.Errorf("fill set %s: %w", s.Name, err)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("apply nftables sets: %w", err)
	}
	return nil
}

// dynamicSize bounds a dynamic set: more than the endpoints of a network.
const dynamicSize = 4096

func (s Set) in(t *nftables.Table) *nftables.Set {
	made := &nftables.Set{
		Table:         t,
		Name:          s.Name,
		KeyType:       s.Kind.key,
		Concatenation: strings.Contains(s.Kind.text, " . "),
	}
	if s.Kind == KindInterface {
		made.KeyByteOrder = binaryutil.NativeEndian // for nft(8), which could not show the names otherwise
	}
	if s.Dynamic {
		made.Dynamic, made.HasTimeout, made.Timeout, made.Size = true, s.Timeout != 0, s.Timeout, dynamicSize
	}
	return made
}

func (s Set) contents() []nftables.SetElement {
	elements := make([]nftables.SetElement, len(s.Elements))
	for i, e := range s.Elements {
		elements[i].Key = e.key
	}
	return elements
}

// Remove deletes a table with all in it; a missing one is no error.
func Remove(family nftables.TableFamily, name string) error {
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

func (t Table) add(conn *nftables.Conn) error {
	target := &nftables.Table{Family: t.Family, Name: t.Name}
	conn.AddTable(target) // so that deleting it cannot miss
	conn.DelTable(target)
	conn.AddTable(target)
	for _, s := range t.Sets {
		if err := conn.AddSet(s.in(target), s.contents()); err != nil {
			return fmt.Errorf("add set %s: %w", s.Name, err)
		}
	}
	for _, c := range t.Chains {
		policy := nftables.ChainPolicyAccept
		if c.Drop {
			policy = nftables.ChainPolicyDrop
		}
		made := conn.AddChain(
			&nftables.Chain{
				Table:    target,
				Name:     c.Name,
				Type:     c.Kind,
				Hooknum:  &c.Hook,
				Priority: &c.Priority,
				Policy:   &policy,
			},
		)
		for _, r := range c.Rules {
			var exprs []expr.Any
			for _, clause := range r {
				exprs = append(exprs, clause.Exprs...)
			}
			conn.AddRule(&nftables.Rule{Table: target, Chain: made, Exprs: exprs})
		}
	}
	return nil
}
