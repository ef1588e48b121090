package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/system"
)

const (
	agentRestartPause = time.Second           // before an agent that died is started again
	terminateGrace    = 5 * time.Second       // between SIGTERM and SIGKILL
	terminatePoll     = 20 * time.Millisecond //
	powerSignal       = unix.SIGTERM          // asks this PID 1 to end the VM, as it does busybox init
)

// serveAsInit is the whole init of an image that has none: it keeps the agent running, reaps
// orphans, and ends the VM when it is asked to. It returns nothing but an error.
func serveAsInit(ctx context.Context, log *slog.Logger) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, powerSignal, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	agent, err := startAgent()
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	var restart <-chan time.Time
	for {
		select {
		case sig := <-signals:
			if sig != unix.SIGCHLD {
				return endVM(ctx, signals)
			}
			reap(func(pid int) {
				if pid == agent {
					log.Error("agent died, starts again")
					restart = time.After(agentRestartPause)
				}
			})
		case <-restart:
			restart = nil
			if agent, err = startAgent(); err != nil {
				return fmt.Errorf("start agent: %w", err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// reap waits for all children that have ended, and reports whether others are left. PID 1 without
// children is alone with the kernel: whatever loses its parent becomes its child.
func reap(ended func(pid int)) (left bool) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD
			return false
		case pid == 0:
			return true
		default:
			ended(pid)
		}
	}
}

// endVM ends all processes, makes the disks clean and resets.
func endVM(ctx context.Context, signals <-chan os.Signal) error {
	unix.Sync()
	if err := unix.Kill(-1, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("terminate processes: %w", err)
	}
	if !waitNoChildren(ctx, signals) {
		if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill processes: %w", err)
		}
		waitNoChildren(ctx, signals)
	}
	unix.Sync()
	remountReadOnly()
	return system.Reset()
}

// waitNoChildren waits until no process is left, at most for terminateGrace, and reports whether
// none is.
func waitNoChildren(ctx context.Context, signals <-chan os.Signal) bool {
	ctx, cancel := context.WithTimeout(ctx, terminateGrace)
	defer cancel()
	tick := time.NewTicker(terminatePoll)
	defer tick.Stop()
	for {
		if !reap(func(int) {}) {
			return true
		}
		select {
		case <-signals:
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// remountReadOnly makes every file system clean, also those beneath the overlay which have no mount
// point: sysrq u. Best-effort: all is synced already.
func remountReadOnly() {
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0o200)
}
