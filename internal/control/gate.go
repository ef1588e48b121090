package control

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"banger/api"
)

// Gate counts the changes that are under way, so that a daemon that is being replaced can refuse
// new ones and wait for these. It is safe for concurrent use.
type Gate struct {
	mu     sync.Mutex // guards the fields below
	closed bool
	inside []*change
	empty  chan struct{} // closed once the gate is closed and nobody is inside
}

// change is one change under way.
type change struct {
	what  string
	began time.Time
}

// Words are how people read an operation on something: "start machine web" of StartMachine and web.
func Words(operation, on string) string {
	var words strings.Builder
	for i, r := range operation {
		if i > 0 && unicode.IsUpper(r) {
			words.WriteByte(' ')
		}
		words.WriteRune(unicode.ToLower(r))
	}
	return strings.TrimSpace(words.String() + " " + on)
}

// NewGate returns an open gate.
func NewGate() *Gate { return &Gate{empty: make(chan struct{})} }

// Enter begins a change. leave ends it, and may be called more than once.
func (g *Gate) Enter(what string) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		if len(g.inside) == 0 {
			return nil, api.Errorf(api.CodeReplaced, "the daemon is being replaced").WithHint("try again")
		}
		return nil, api.Errorf(api.CodeReplaced, "the daemon is being replaced, %d left: %s", len(g.inside), strings.Join(g.words(), ", ")).
			WithHint("try again when they are done")
	}
	p := &change{what, time.Now()}
	g.inside = append(g.inside, p)
	return sync.OnceFunc(func() { g.leave(p) }), nil
}

func (g *Gate) leave(p *change) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside = slices.DeleteFunc(g.inside, func(other *change) bool { return other == p })
	if g.closed && len(g.inside) == 0 {
		close(g.empty)
	}
}

// Close refuses changes from now on and returns a channel that is closed when none is under way any
// more.
func (g *Gate) Close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed && len(g.inside) == 0 {
		close(g.empty)
	}
	g.closed = true
	return g.empty
}

// State reports whether the gate is closed, and, if so, which changes are waited for.
func (g *Gate) State() (closed bool, left []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		return false, nil
	}
	return true, g.words()
}

// words names the changes under way, the oldest first. g.mu must be held.
func (g *Gate) words() []string {
	var words []string
	for _, p := range g.inside {
		words = append(words, fmt.Sprintf("%s (%s)", p.what, time.Since(p.began).Round(time.Second)))
	}
	return words
}
