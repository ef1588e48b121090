package fcqemu

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// levelOff is above everything that is logged.
const levelOff = slog.LevelError + 4

// parseLevel knows Firecracker's names, in any case.
func parseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "off":
		return levelOff, nil
	case "error":
		return slog.LevelError, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "info":
		return slog.LevelInfo, nil
	case "debug":
		return slog.LevelDebug, nil
	case "trace":
		return slog.LevelDebug - 4, nil
	}
	return 0, fmt.Errorf("unknown variant `%.50s`, expected one of `Off`, `Trace`, `Debug`, `Info`, `Warn`, `Error`", name)
}

// logHandler writes Firecracker's log lines: LOCALTIME [ID:thread(:LEVEL)] message. Everything is
// of the thread main.
type logHandler struct {
	id string

	mu        sync.Mutex
	out       io.Writer
	level     slog.Level
	showLevel bool
}

// configure changes what is set; nil leaves as it is.
func (h *logHandler) configure(out io.Writer, level *slog.Level, showLevel *bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if out != nil {
		h.out = out
	}
	if level != nil {
		h.level = *level
	}
	if showLevel != nil {
		h.showLevel = *showLevel
	}
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return level >= h.level
}

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	level := ""
	if h.showLevel {
		level = ":" + r.Level.String()
	}
	var attributes strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&attributes, " %s=%v", a.Key, a.Value)
		return true
	})
	_, err := fmt.Fprintf(
		h.out,
		"%s [%s:main%s] %s%s\n",
		r.Time.Format("2006-01-02T15:04:05.000000000"),
		h.id,
		level,
		r.Message,
		attributes.String(),
	)
	return err
}

// WithAttrs and WithGroup are not used here: a line is its message and attributes.
func (h *logHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h *logHandler) WithGroup(string) slog.Handler { return h }

func newLogHandler(id string, out io.Writer) *logHandler { return &logHandler{id: id, out: out} }
