package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"banger/api"
)

// keepAfter is how long a stage must have taken to stay on the screen: shorter ones are noise.
const keepAfter = 200 * time.Millisecond

// display shows the stages of long work, and what is said meanwhile. close ends it before anything
// else is printed.
type display interface {
	show(api.Progress)
	say(lines string)
	close()
}

// newDisplay returns bars on a terminal, lines elsewhere, nothing with --quiet.
func (a *app) newDisplay() display {
	file, isFile := a.Stderr.(*os.File)
	switch {
	case a.quiet:
		return silent{}
	case isFile && term.IsTerminal(int(file.Fd())) && a.Getenv("TERM") != "dumb":
		return &bars{
			container: mpb.New(mpb.WithOutput(file), mpb.WithWidth(60), mpb.WithRefreshRate(100*time.Millisecond)),
			byStage:   map[string]*mpb.Bar{},
			details:   map[string]*atomic.Pointer[string]{},
		}
	}
	return &lines{out: a.Stderr, announced: map[string]bool{}}
}

type silent struct{}

func (silent) show(api.Progress) {}
func (silent) say(string)        {}
func (silent) close()            {}

// lines writes a line when a stage has ended, and one before when it takes long.
type lines struct {
	out       io.Writer
	mu        sync.Mutex // guards announced and the order of lines
	announced map[string]bool
}

func (l *lines) show(p api.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := time.Duration(p.ElapsedMS) * time.Millisecond
	switch {
	case p.State == api.ProgressRunning && took > 2*time.Second && !l.announced[p.Stage]:
		l.announced[p.Stage] = true
		fmt.Fprintln(l.out, strings.TrimSpace(p.Stage+" ... "+p.Detail))
	case p.State == api.ProgressDone && took >= 10*time.Millisecond:
		fmt.Fprintf(l.out, "%s: %s%s\n", p.Stage, seconds(took), amount(p))
	case p.State == api.ProgressFailed:
		fmt.Fprintf(l.out, "%s: failed after %s\n", p.Stage, seconds(took))
	}
}

func (l *lines) say(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.out, text) //nolint:errcheck // as with the stages: nobody is there to be told
}

func (l *lines) close() {}

func amount(p api.Progress) string {
	if p.DoneBytes == 0 {
		return ""
	}
	return ", " + size(p.DoneBytes)
}

// bars shows one live line a stage: a bar where the size is known, the time alone where it is not.
type bars struct {
	container *mpb.Progress
	mu        sync.Mutex // guards the maps
	byStage   map[string]*mpb.Bar
	details   map[string]*atomic.Pointer[string] // read by the decorators, which must not wait for mu
}

func (b *bars) show(p api.Progress) {
	b.mu.Lock()
	bar := b.byStage[p.Stage]
	if bar == nil {
		bar = b.add(p)
	}
	b.details[p.Stage].Store(&p.Detail)
	b.mu.Unlock()
	switch p.State {
	case api.ProgressRunning:
		if p.TotalBytes > 0 {
			bar.SetTotal(p.TotalBytes, false)
		}
		bar.SetCurrent(p.DoneBytes)
	case api.ProgressDone:
		b.forget(p.Stage)
		if time.Duration(p.ElapsedMS)*time.Millisecond < keepAfter {
			bar.Abort(true)
			return
		}
		bar.SetTotal(max(p.DoneBytes, 1), true)
	case api.ProgressFailed:
		b.forget(p.Stage)
		bar.Abort(true)
		fmt.Fprintf(b.container, "✗ %s %s\n", p.Stage, seconds(time.Duration(p.ElapsedMS)*time.Millisecond))
	}
}

// barWhenSized fills a line with a bar as soon as its size is known: most stages learn theirs after
// they have begun.
type barWhenSized struct{ bar, none mpb.BarFiller }

func (f barWhenSized) Fill(w io.Writer, s decor.Statistics) error {
	if s.Total > 0 {
		return f.bar.Fill(w, s)
	}
	return f.none.Fill(w, s)
}

// beside is what stands behind a line that goes on: how much of how much, and the stage's own
// words.
func beside(s decor.Statistics, words *string) string {
	if s.Completed || s.Aborted {
		return ""
	}
	text := ""
	if s.Total > 0 {
		text = fmt.Sprintf(" %s / %s", size(s.Current), size(s.Total))
	}
	if words != nil && *words != "" {
		text += " " + *words
	}
	return text
}

// add makes the line of a new stage. b.mu must be held.
func (b *bars) add(p api.Progress) *mpb.Bar {
	detail := new(atomic.Pointer[string])
	bar := b.container.MustAdd(p.TotalBytes, barWhenSized{mpb.BarStyle().Build(), mpb.NopStyle().Build()},
		mpb.PrependDecorators(
			decor.OnAbort(decor.OnComplete(decor.Spinner(nil), "✓"), " "), // aborted bars are dropped
			decor.Name(" "+p.Stage+" "),
			decor.Elapsed(decor.ET_STYLE_GO),
		),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return beside(s, detail.Load()) })),
		mpb.BarFillerClearOnComplete(),
	)
	b.byStage[p.Stage], b.details[p.Stage] = bar, detail
	return bar
}

// say writes above the bars.
func (b *bars) say(text string) {
	io.WriteString(b.container, text) //nolint:errcheck // as above
}

func (b *bars) forget(stage string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.byStage, stage)
	delete(b.details, stage)
}

func (b *bars) close() {
	b.mu.Lock()
	left := b.byStage
	b.byStage = map[string]*mpb.Bar{}
	b.mu.Unlock()
	for _, bar := range left {
		bar.Abort(true)
	}
	b.container.Wait()
}
