package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"banger/api"
)

const (
	// maxLogBytes bounds what a guest can write on the host; apt says about 100 KiB for a large
	// preset.
	maxLogBytes = 32 << 20
	// followInterval is how often a log that is followed is looked at for more.
	followInterval = 100 * time.Millisecond
)

// buildLog is the log of one build, in a file and before whoever watches.
type buildLog struct {
	mu     sync.Mutex // guards the fields below and the order of writes
	file   *os.File
	follow io.Writer
	bytes  int
}

// openLog begins the log of an image's build, in place of that of the last one.
func (b *Builder) openLog(name string, follow io.Writer) (*buildLog, error) {
	if err := os.MkdirAll(b.logDir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of build logs: %w", err)
	}
	// A new file: who still reads the old one goes on with that.
	if err := os.Remove(b.logPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old build log: %w", err)
	}
	file, err := os.OpenFile(b.logPath(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open build log: %w", err)
	}
	return &buildLog{file: file, follow: follow}, nil
}

// logPath escapes what a name may hold besides letters.
func (b *Builder) logPath(name string) string {
	return filepath.Join(b.logDir, url.PathEscape(name)+".log")
}

// Write fails only when the file cannot be written: a watcher that is gone ends the build by its
// context.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes > maxLogBytes {
		return len(p), nil
	}
	l.bytes += len(p)
	_, _ = l.follow.Write(p)
	kept := p
	if l.bytes > maxLogBytes {
		kept = append(slices.Clip(p), "\n== the log is full; what follows is dropped\n"...)
	}
	if _, err := l.file.Write(kept); err != nil {
		return 0, fmt.Errorf("write build log: %w", err)
	}
	return len(p), nil
}

// Log writes the log of an image's last build, and with follow goes on until the build has ended.
func (b *Builder) Log(ctx context.Context, name string, follow bool, to io.Writer, flush func() error) error {
	log, err := os.Open(b.logPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.CodeNotFound, "no image %s was built here", name).
			WithRemedy(api.OpImages.Remedy(api.None{}, "see what there is"))
	}
	if err != nil {
		return fmt.Errorf("open build log: %w", err)
	}
	defer log.Close()
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		ended := b.ended(name) // before the copy, so that the last bytes are not missed
		if _, err := io.Copy(to, log); err != nil {
			return err
		}
		if err := flush(); err != nil || !follow || ended {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ended reports whether no build of the name is under way.
func (b *Builder) ended(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.running[name]
}
