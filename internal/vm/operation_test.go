package vm

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

func bareManager() *Manager { return New(Options{Log: slog.New(slog.DiscardHandler)}) }

// begin starts an operation that goes on until its context ends; the channel gives what it
// returned.
func begin(ctx context.Context, m *Manager, name string, how mode) <-chan error {
	ended := make(chan error, 1)
	go func() {
		ended <- m.operate(ctx, "vm", name, how, func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	synctest.Wait()
	return ended
}

func nothing(context.Context) error { return nil }

func TestOperateWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bareManager()
		ctx, cancel := context.WithCancel(t.Context())
		first := begin(ctx, m, "start", 0)
		if err := m.operate(t.Context(), "other", "start", 0, nothing); err != nil {
			t.Errorf("an operation on another machine = %v", err)
		}
		second := make(chan error, 1)
		go func() { second <- m.operate(t.Context(), "vm", "remove", 0, nothing) }()
		synctest.Wait()
		select {
		case err := <-second:
			t.Fatalf("the second operation did not wait: %v", err)
		default:
		}
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("first = %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("second = %v", err)
		}
	})
}

func TestOperateWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bareManager()
		ctx, cancel := context.WithCancel(t.Context())
		first := begin(ctx, m, "start", 0)
		waiting, giveUp := context.WithTimeout(t.Context(), time.Second)
		defer giveUp()
		// Also a detached operation ends with its client as long as it has not begun.
		if err := m.operate(waiting, "vm", "stop", detached, nothing); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the waiter = %v", err)
		}
		cancel()
		<-first
	})
}

func TestOperatePreempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bareManager()
		first := begin(t.Context(), m, "start", 0)
		if err := m.operate(t.Context(), "vm", "stop", preempt, nothing); err != nil {
			t.Errorf("the stronger one = %v", err)
		}
		if err := <-first; api.CodeOf(err) != api.CodeCanceled || err.Error() != "start was cancelled by stop" {
			t.Errorf("the weaker one = %v", err)
		}
	})
}

// An operation that has cancelled another is done, also when its client has left: nobody else
// brings the VM to an end.
func TestOperatePreemptsToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bareManager()
		undone := make(chan struct{})
		first := make(chan error, 1)
		go func() {
			first <- m.operate(t.Context(), "vm", "start", 0, func(ctx context.Context) error {
				<-ctx.Done()
				<-undone // a rollback takes its time
				return context.Cause(ctx)
			})
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		second, done := make(chan error, 1), false
		go func() {
			second <- m.operate(ctx, "vm", "kill", preempt|detached, func(context.Context) error { done = true; return nil })
		}()
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(undone)
		<-first
		if err := <-second; err != nil || !done {
			t.Errorf("the kill = %v, done: %v", err, done)
		}
	})
}

func TestOperateDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bareManager()
		ctx, cancel := context.WithCancel(t.Context())
		first := begin(ctx, m, "stop", detached)
		cancel()
		synctest.Wait()
		select {
		case err := <-first:
			t.Fatalf("it ended with its client: %v", err)
		default:
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := <-first; api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("ended by Close = %v, want unavailable", err)
		}
	})
}

func TestOperateWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bareManager()
		first := begin(t.Context(), m, "start", 0)
		waiter := make(chan error, 1)
		go func() { waiter <- m.operate(t.Context(), "vm", "stop", 0, nothing) }()
		synctest.Wait()
		if err := m.Close(); err != nil { // waits for the first
			t.Error(err)
		}
		for name, ended := range map[string]<-chan error{"under way": first, "waiting": waiter} {
			if err := <-ended; api.CodeOf(err) != api.CodeUnavailable {
				t.Errorf("the operation %s = %v, want unavailable", name, err)
			}
		}
		if err := m.operate(t.Context(), "vm", "start", 0, nothing); api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("an operation after Close = %v", err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("Close twice = %v", err)
		}
	})
}

func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bareManager()
		ctx, cancel := context.WithCancel(t.Context())
		first := begin(ctx, m, "start", 0)
		retired := make(chan struct{})
		go func() { m.Retire(t.Context()); close(retired) }()
		synctest.Wait()
		if err := m.operate(t.Context(), "vm2", "start", 0, nothing); api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("a new operation = %v, want unavailable", err)
		}
		select {
		case <-retired:
			t.Fatal("Retire did not let the operation end")
		case <-first:
			t.Fatal("Retire cancelled the operation")
		default:
		}
		cancel()
		<-retired
		<-first

		late := bareManager()
		stuck := begin(t.Context(), late, "start", 0)
		patience, end := context.WithTimeout(t.Context(), time.Minute)
		defer end()
		late.Retire(patience) // returns, for it cancels what is left
		if err := <-stuck; api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("the stuck operation = %v", err)
		}
	})
}

// trace is a step that notes what is done and fails when told to.
func trace(log *[]string, name string, doErr, undoErr error) step {
	note := func(what string, err error) func(context.Context) error {
		return func(ctx context.Context) error {
			if ctx.Err() != nil {
				what += " (canceled)"
			}
			*log = append(*log, what+" "+name)
			return err
		}
	}
	return step{name: name, do: note("do", doErr), undo: note("undo", undoErr)}
}

func TestPerform(t *testing.T) {
	bad, worse := errors.New("bad"), errors.New("worse")
	tests := []struct {
		name     string
		fail     int // index of the step that fails, -1 for none
		undoErr  error
		want     string
		wantErrs string
	}{
		{"OK", -1, nil, "do a, do b, do c", ""},
		{"FirstFails", 0, nil, "do a, undo a", "a: bad"},
		{"LastFails", 2, nil, "do a, do b, do c, undo c, undo b, undo a", "c: bad"},
		{"UndoFailsToo", 1, worse, "do a, do b, undo b, undo a", "b: bad\nundo b: worse\nundo a: worse"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log []string
			var steps []step
			for i, name := range []string{"a", "b", "c"} {
				var err error
				if i == tt.fail {
					err = bad
				}
				steps = append(steps, trace(&log, name, err, tt.undoErr))
			}
			clean, err := bareManager().perform(t.Context(), flow{name: "test", steps: steps})
			if clean != (tt.undoErr == nil) {
				t.Errorf("clean = %v", clean)
			}
			if diff := cmp.Diff(tt.want, strings.Join(log, ", ")); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.wantErrs, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if tt.wantErrs != "" && !errors.Is(err, bad) {
				t.Error("the cause is lost")
			}
		})
	}
}

// What uses the rest and cannot be given back keeps the rest.
func TestUndoLeavesWhatIsUsed(t *testing.T) {
	var log []string
	bad := errors.New("bad")
	steps := []step{trace(&log, "folder", nil, nil), trace(&log, "VMM", nil, bad), trace(&log, "boot", bad, nil)}
	steps[1].uses = true
	clean, err := bareManager().perform(t.Context(), flow{name: "test", steps: steps})
	if got, want := strings.Join(log, ", "), "do folder, do VMM, do boot, undo boot, undo VMM"; got != want || clean {
		t.Errorf("order = %q, clean %v, want %q", got, clean, want)
	}
	if want := "boot: bad\nundo VMM: bad"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

// A note that cannot be written stops nothing.
func TestPerformGoesOnWithoutNote(t *testing.T) {
	var log []string
	steps := []step{trace(&log, "note", errors.New("disk full"), nil), trace(&log, "end", nil, nil)}
	steps[0].note = true
	if _, err := bareManager().perform(t.Context(), flow{name: "test", steps: steps}); err != nil {
		t.Error(err)
	}
	if got, want := strings.Join(log, ", "), "do note, do end"; got != want {
		t.Errorf("order = %q, want %q", got, want)
	}
}

// What a step took is given back although the caller has left.
func TestUndoOutlivesCaller(t *testing.T) {
	var log []string
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	steps := []step{trace(&log, "a", nil, nil), {name: "b", do: func(context.Context) error { return context.Canceled }}}
	if _, err := bareManager().perform(ctx, flow{name: "test", steps: steps}); !errors.Is(err, context.Canceled) {
		t.Errorf("perform = %v", err)
	}
	if got, want := strings.Join(log, ", "), "do (canceled) a, undo a"; got != want {
		t.Errorf("order = %q, want %q", got, want)
	}
}
