package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scoreFile stands for /proc/self/oom_score_adj: what is written there is its content from the
// start.
func scoreFile(t *testing.T) (o *oomScore, score func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "oom_score_adj")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &oomScore{file: f}, func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// A child is forked while the score is an ordinary one, and the agent's is back afterwards, also
// when that failed.
func TestLendScore(t *testing.T) {
	failed := errors.New("no such program")
	for _, want := range []error{nil, failed} {
		o, score := scoreFile(t)
		if err := o.set("-1000"); err != nil {
			t.Fatal(err)
		}
		var during string
		err := o.lend(func() error { during = score(); return want })
		if !errors.Is(err, want) || !strings.HasPrefix(during, "0") || score() != "-1000" {
			t.Errorf("got %v, score %q during and %q after, want %v, 0 and -1000", err, during, score(), want)
		}
	}
	started := false
	if err := new(oomScore).lend(func() error { started = true; return nil }); err != nil || !started {
		t.Errorf("an agent that is not protected: %v, started %v", err, started)
	}
}

// Nothing starts with the agent's score, and an agent that lost its own says so.
func TestLendScoreErrors(t *testing.T) {
	o, _ := scoreFile(t)
	o.file.Close()
	if err := o.lend(func() error { t.Error("started"); return nil }); !contains(err, "set OOM score") {
		t.Errorf("a score that can not be set: %v", err)
	}
	o, _ = scoreFile(t)
	if err := o.lend(func() error { return o.file.Close() }); !contains(err, "set OOM score") {
		t.Errorf("a score that can not be set back: %v", err)
	}
	failed := errors.New("no such program")
	o, _ = scoreFile(t)
	if err := o.lend(func() error { o.file.Close(); return failed }); !errors.Is(err, failed) {
		t.Errorf("of two errors got %v, want the start's", err)
	}
}
