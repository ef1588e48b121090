package control

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"banger/api"
)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func enter(t *testing.T, g *Gate, what string) (leave func()) {
	t.Helper()
	leave, err := g.Enter(what)
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		first := enter(t, g, "pull image")
		<-time.After(90 * time.Second) // of the bubble's own clock
		second := enter(t, g, "rm web")
		if closed, left := g.State(); closed || left != nil {
			t.Errorf("an open gate: %t, %q", closed, left)
		}
		empty := g.Close()
		if again := g.Close(); again != empty || isClosed(empty) {
			t.Error("Close twice gives two channels, or one that is closed while changes are under way")
		}
		if closed, left := g.State(); !closed || !slices.Equal(left, []string{"pull image (1m30s)", "rm web (0s)"}) {
			t.Errorf("a closed gate: %t, %q", closed, left)
		}
		_, err := g.Enter("late")
		if e, _ := errors.AsType[*api.Error](err); e == nil || e.Code != api.CodeReplaced || e.Hint == "" ||
			e.Message != "the daemon is being replaced, 2 left: pull image (1m30s), rm web (0s)" {
			t.Errorf("Enter of a closed gate = %v", err)
		}
		first()
		first() // counts once
		if closed, left := g.State(); !closed || len(left) != 1 || isClosed(empty) {
			t.Errorf("after one has left: %t, %q", closed, left)
		}
		second()
		if closed, left := g.State(); !closed || len(left) != 0 || !isClosed(empty) {
			t.Errorf("after all have left: %t, %q, empty %t", closed, left, isClosed(empty))
		}
		second()
		if !isClosed(g.Close()) {
			t.Error("Close of an empty gate waits")
		}
		if _, err := g.Enter("late"); api.CodeOf(err) != api.CodeReplaced || err.Error() != "the daemon is being replaced" {
			t.Errorf("Enter of an empty closed gate = %v", err)
		}
	})
}

func TestGateWithoutChanges(t *testing.T) {
	g := NewGate()
	enter(t, g, "x")()
	if first, second := g.Close(), g.Close(); !isClosed(first) || !isClosed(second) {
		t.Error("Close waits for nobody")
	}
}

// Whoever came in is waited for, and nobody comes in after the gate was seen to be empty.
func TestGateRace(t *testing.T) {
	for range 200 {
		g, inside := NewGate(), atomic.Int32{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				leave, err := g.Enter("x")
				if err != nil {
					return
				}
				inside.Add(1)
				inside.Add(-1)
				leave()
				leave()
			})
		}
		empties := make(chan (<-chan struct{}), 2)
		for range 2 {
			all.Go(func() { empties <- g.Close() })
		}
		for range 2 {
			<-<-empties
			if n := inside.Load(); n != 0 {
				t.Fatalf("%d are inside an empty gate", n)
			}
		}
		all.Wait()
	}
}
