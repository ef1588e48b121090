package progress

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"banger/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record collects what is reported.
func record(ctx context.Context) (context.Context, func() []api.Progress) {
	var mu sync.Mutex
	var all []api.Progress
	report := func(p api.Progress) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, p)
	}
	return With(ctx, report), func() []api.Progress {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// Packages report unconditionally: without a watcher, and on a nil Stage, nothing happens.
func TestNobodyWatches(t *testing.T) {
	for name, ctx := range map[string]context.Context{"NoReporter": t.Context(), "NilReporter": With(t.Context(), nil)} {
		stage := Start(ctx, "work")
		if stage != nil {
			t.Errorf("%s: Start = %v, want nil", name, stage)
		}
		stage.SetTotal(10)
		stage.Add(1)
		stage.Detail("x")
		stage.End(nil)
		in := strings.NewReader("abc")
		if got := stage.Reader(in); got != in {
			t.Errorf("%s: Reader wraps though nobody watches", name)
		}
	}
}

func TestStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, events := record(t.Context())
		stage := Start(ctx, "download")
		stage.SetTotal(100)
		stage.Add(10)            // too soon after the last report
		time.Sleep(advanceEvery) //nolint:forbidigo // on synctest's clock
		stage.Add(20)
		stage.Detail("late")         // too soon
		time.Sleep(advanceEvery / 2) //nolint:forbidigo // on synctest's clock
		stage.End(nil)
		stage.End(errors.New("twice"))
		stage.Add(70)
		running := api.Progress{Stage: "download", State: api.ProgressRunning}
		want := []api.Progress{
			running,
			{Stage: "download", State: api.ProgressRunning, TotalBytes: 100},
			{Stage: "download", State: api.ProgressRunning, TotalBytes: 100, DoneBytes: 30, ElapsedMS: 100},
			{Stage: "download", State: api.ProgressDone, TotalBytes: 100, DoneBytes: 30, Detail: "late", ElapsedMS: 150},
		}
		if diff := cmp.Diff(want, events()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestStageFailed(t *testing.T) {
	ctx, events := record(t.Context())
	Start(ctx, "boot").End(errors.New("no"))
	got := events()
	if len(got) != 2 || got[1].State != api.ProgressFailed {
		t.Errorf("events = %+v, want running and failed", got)
	}
}

func TestReader(t *testing.T) {
	ctx, events := record(t.Context())
	stage := Start(ctx, "copy")
	if n, err := io.Copy(io.Discard, stage.Reader(strings.NewReader("0123456789"))); n != 10 || err != nil {
		t.Fatalf("Copy = %d, %v", n, err)
	}
	stage.End(nil)
	got := events()
	if last := got[len(got)-1]; last.DoneBytes != 10 || last.State != api.ProgressDone {
		t.Errorf("last event = %+v, want 10 bytes done", last)
	}
}

// Events of one stage come in order although many goroutines advance it, and nothing follows the
// end.
func TestConcurrentOrder(t *testing.T) {
	ctx, events := record(t.Context())
	stage := Start(ctx, "unpack")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				stage.Add(1)
				stage.SetTotal(1600)
			}
		})
	}
	group.Wait()
	stage.End(nil)
	all := events()
	for i := 1; i < len(all); i++ {
		if all[i].DoneBytes < all[i-1].DoneBytes || all[i].ElapsedMS < all[i-1].ElapsedMS {
			t.Fatalf("event %d goes back: %+v after %+v", i, all[i], all[i-1])
		}
	}
	if last := all[len(all)-1]; last.DoneBytes != 1600 || last.State != api.ProgressDone {
		t.Errorf("last event = %+v", last)
	}
}
