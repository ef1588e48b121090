// Package progress carries the stages of long work from where it is done to whoever watches it.
//
// The watcher puts a Reporter into the context; the worker opens stages with Start. Without a
// Reporter a stage costs nothing and reports to nobody, so packages report unconditionally.
package progress

import (
	"context"
	"io"
	"sync"
	"time"

	"banger/api"
)

// advanceEvery bounds how often a stage reports that bytes moved.
const advanceEvery = 100 * time.Millisecond

// Reporter receives each event. It is called from any goroutine, one event of a stage at a time,
// and must not block for long: the work waits for it.
type Reporter func(api.Progress)

type contextKey struct{}

// With returns a context whose stages are reported to r.
func With(ctx context.Context, r Reporter) context.Context {
	return context.WithValue(ctx, contextKey{}, r)
}

// Stage is one open stage. Its methods are safe for concurrent use, and on a nil Stage do nothing.
type Stage struct {
	report Reporter
	began  time.Time

	mu           sync.Mutex // guards the fields below and orders the reports of this stage
	event        api.Progress
	lastReported time.Time
	ended        bool
}

// Start opens a stage called name and reports it. The caller ends it exactly once with End.
func Start(ctx context.Context, name string) *Stage {
	r, _ := ctx.Value(contextKey{}).(Reporter)
	if r == nil {
		return nil
	}
	s := &Stage{report: r, began: time.Now(), event: api.Progress{Stage: name, State: api.ProgressRunning}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send()
	return s
}

// SetTotal says how many bytes the stage has in all.
func (s *Stage) SetTotal(bytes int64) {
	s.update(true, func(e *api.Progress) { e.TotalBytes = bytes })
}

// Add says that bytes more are done.
func (s *Stage) Add(bytes int64) {
	s.update(false, func(e *api.Progress) { e.DoneBytes += bytes })
}

// Detail shows a few words beside the stage.
func (s *Stage) Detail(words string) {
	s.update(false, func(e *api.Progress) { e.Detail = words })
}

// End closes the stage, as failed when err is not nil. A second End does nothing.
func (s *Stage) End(err error) {
	s.update(true, func(e *api.Progress) {
		e.State = api.ProgressDone
		if err != nil {
			e.State = api.ProgressFailed
		}
		s.ended = true
	})
}

// Reader counts what is read through it as done.
func (s *Stage) Reader(r io.Reader) io.Reader {
	if s == nil {
		return r
	}
	return &countingReader{r: r, stage: s}
}

// update changes the event and reports it; changes that are not now are reported at most every
// advanceEvery.
func (s *Stage) update(now bool, change func(*api.Progress)) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	change(&s.event)
	if now || time.Since(s.lastReported) >= advanceEvery {
		s.send()
	}
}

// send reports the event as it stands. s.mu must be held.
func (s *Stage) send() {
	s.lastReported = time.Now()
	s.event.ElapsedMS = s.lastReported.Sub(s.began).Milliseconds()
	s.report(s.event)
}

type countingReader struct {
	r     io.Reader
	stage *Stage
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.stage.Add(int64(n))
	return n, err
}
