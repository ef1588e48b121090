package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/guestd/procfs"
	"banger/internal/guestd/system"
)

const (
	bootPoll     = 100 * time.Millisecond // of files, which costs next to nothing
	bootSteady   = 5                      // polls in a row, where an answer may be of a moment between two scripts
	bootAskAgain = time.Second            // before a systemctl that could not answer is started again
)

// bootWatch learns once that the image's init has finished.
type bootWatch struct {
	done   chan struct{} // closed when state is set
	state  string
	cancel context.CancelFunc
	ended  chan struct{} // closed when the watch has ended, one way or the other
}

func watchBoot(config Config) *bootWatch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &bootWatch{done: make(chan struct{}), cancel: cancel, ended: make(chan struct{})}
	wait := bootWaiter(config)
	if wait == nil {
		w.state = "running"
		close(w.done)
		close(w.ended)
		return w
	}
	go func() {
		defer close(w.ended)
		if state := wait(ctx); state != "" {
			w.state = state
			close(w.done)
		}
	}()
	return w
}

func (w *bootWatch) stop() {
	w.cancel()
	<-w.ended
}

func (w *bootWatch) isDone() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// bootWaiter gives the way to wait for the kind of init there is; it returns the state reached,
// empty when ctx ended. It is nil for an init that has nothing to say.
func bootWaiter(config Config) func(context.Context) string {
	switch config.Record.Init {
	case system.InitSystemd:
		return func(ctx context.Context) string { return waitSystemd(ctx, filepath.Join(config.Root, "run/systemd")) }
	case system.InitOpenRC:
		return func(ctx context.Context) string {
			return poll(ctx, func() bool { return openRCBooted(filepath.Join(config.Root, "run/openrc")) })
		}
	case system.InitSysvinit, system.InitBusybox:
		return func(ctx context.Context) string {
			return poll(ctx, steady(bootSteady, (&scriptWatch{proc: "/proc"}).done))
		}
	default:
		return nil
	}
}

// waitSystemd has systemctl wait, once there is somebody whom it can ask.
func waitSystemd(ctx context.Context, run string) string {
	for {
		if poll(ctx, func() bool { _, err := os.Stat(filepath.Join(run, "private")); return err == nil }) == "" {
			return ""
		}
		// The exit code says whether it runs well; the word is all that counts here.
		out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running", "--wait").Output()
		switch state := strings.TrimSpace(string(out)); state {
		case "running", "degraded", "maintenance":
			return state
		}
		select {
		case <-time.After(bootAskAgain):
		case <-ctx.Done():
			return ""
		}
	}
}

// openRCBooted reports whether the default runlevel is reached: its name is there before its
// services are started, and rc.starting for as long as they are.
func openRCBooted(run string) bool {
	level, err := os.ReadFile(filepath.Join(run, "softlevel"))
	if err != nil || strings.TrimSpace(string(level)) != "default" {
		return false
	}
	_, err = os.Stat(filepath.Join(run, "rc.starting"))
	return os.IsNotExist(err)
}

// scriptWatch looks at the children of an init that starts scripts, rcS and rcN or rc, one after
// another. Between two scripts it is wrong for a moment; it is a heuristic, as these inits tell
// nobody that they are done.
type scriptWatch struct {
	proc  string
	begun bool // the image's init has had a child of its own
}

// done reports whether the init has begun and has no script at work now.
func (w *scriptWatch) done() bool {
	first, err := procfs.ReadProcess(w.proc, 1)
	if err != nil || strings.HasPrefix(first.Name, "banger") {
		return false
	}
	pids, err := procfs.PIDs(w.proc)
	if err != nil {
		return false
	}
	busy := false
	for _, pid := range pids {
		p, err := procfs.ReadProcess(w.proc, pid)
		if err != nil || p.Parent != 1 || strings.HasPrefix(p.Name, "banger") {
			continue
		}
		w.begun = true
		// A child of init's own name is about to become a script or a getty.
		busy = busy || p.Name == "rc" || p.Name == "rcS" || p.Name == first.Name || strings.HasPrefix(p.Name, "startpar")
	}
	return w.begun && !busy
}

// steady reports whether ready has said so n times in a row.
func steady(n int, ready func() bool) func() bool {
	row := 0
	return func() bool {
		row++
		if !ready() {
			row = 0
		}
		return row >= n
	}
}

// poll returns "running" when ready says so, and "" when ctx ends first.
func poll(ctx context.Context, ready func() bool) string {
	tick := time.NewTicker(bootPoll)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ""
		}
	}
	return "running"
}
