package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"banger/api"
	"banger/internal/build"
	"banger/internal/config"
	"banger/internal/host"
)

const (
	// dialTimeout bounds the question whether a daemon is there.
	dialTimeout = 5 * time.Second
	// startTimeout is how long a new daemon may take to answer; it recovers all VMs first.
	startTimeout = 30 * time.Second
	// handoverPatience is how long a request that changes nothing waits for a daemon of its own
	// build, before it asks the one that is still being replaced.
	handoverPatience = 500 * time.Millisecond
	// handoverInterval is how often that one is asked what it waits for.
	handoverInterval = 500 * time.Millisecond
	// maxTries bounds how often one request starts a daemon that another build's command replaces
	// at once.
	maxTries = 5
	// maxLogBytes is where the daemon's log is moved aside at a start.
	maxLogBytes = 8 << 20
)

// newClient returns the way to the daemon. Each request sees to it first that a daemon is there
// that can take it.
func (a *app) newClient() *api.Client {
	client := api.NewClient(a.config.Home.Socket())
	client.Before = a.ensureDaemon
	return client
}

// ensureDaemon returns when a daemon can take the operation: one of this very build for a change,
// any that speaks this API for what changes nothing. It starts one when none runs, and replaces one
// of another build, whose machines, sessions and changes under way go on.
func (a *app) ensureDaemon(ctx context.Context, op api.Spec) error {
	select {
	case a.daemonTurn <- struct{}{}: // one of many requests at once starts the daemon for all
		defer func() { <-a.daemonTurn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := a.config.Home.Check(); err != nil {
		return err
	}
	mine, err := build.ID()
	if err != nil {
		return err
	}
	plain := api.NewClient(a.config.Home.Socket())
	defer plain.CloseIdle()
	for range maxTries {
		status, err := askStatus(ctx, plain)
		switch {
		case nobodyListens(err):
		case err != nil:
			return fmt.Errorf("ask the daemon: %w", err)
		case status.Build != mine || status.Draining:
			done, err := a.replaceDaemon(ctx, plain, op, status)
			if err != nil || !done {
				return err
			}
		default:
			return a.checkSettings(op, status)
		}
		// What answers then may be another command's daemon: it is judged as one that was there.
		if err := a.startDaemon(ctx, plain); err != nil {
			return err
		}
	}
	return api.Errorf(api.CodeUnavailable, "other builds of banger replace the daemon all the time").
		WithHint("use one build at a time")
}

func askStatus(ctx context.Context, client *api.Client) (api.DaemonStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return client.Status(ctx)
}

// replaceDaemon asks the daemon to make way and reports whether it has. It has not when the
// operation can be asked of it still, which goes on to answer until the changes under way have
// ended.
func (a *app) replaceDaemon(ctx context.Context, plain *api.Client, op api.Spec, status api.DaemonStatus) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan error, 1)
	go func() { gone <- plain.StopDaemon(ctx, api.StopDaemon{Drain: true}) }()
	var enough <-chan time.Time
	if !op.Mutates() && !op.HomeSettings && status.API == api.Version { // a run, too, makes a machine
		timer := time.NewTimer(a.patience)
		defer timer.Stop()
		enough = timer.C
	}
	display := a.newDisplay()
	defer display.close()
	tick := time.NewTicker(handoverInterval)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case err := <-gone:
			if err != nil && !nobodyListens(err) {
				return false, fmt.Errorf("replace the daemon of another build: %w", err)
			}
			return true, nil
		case <-enough:
			a.patience = 0 // it stays busy for the rest of this command, mostly
			return false, nil
		case <-tick.C:
			p := api.Progress{Stage: "wait for the daemon of another build", State: api.ProgressRunning}
			if now, err := askStatus(ctx, plain); err == nil {
				p.Detail = strings.Join(now.Left, ", ")
			}
			p.ElapsedMS = time.Since(began).Milliseconds()
			display.show(p)
		}
	}
}

// checkSettings refuses an operation that would go by other settings than the user has in mind:
// those of the home folder are its daemon's from the daemon's start on.
func (a *app) checkSettings(op api.Spec, status api.DaemonStatus) error {
	if !op.HomeSettings {
		return nil
	}
	for _, s := range config.InForce(a.settings, status.Settings) {
		if s.Pending != "" {
			return api.Errorf(api.CodeConflict, "setting %s is %s (from %s), but the daemon that runs was started with %s",
				s.Key, s.Pending, s.PendingOrigin, s.Value).
				WithRemedy(api.OpStopDaemon.Remedy(api.StopDaemon{Drain: true}, "replace it; what is under way goes on"))
		}
	}
	return nil
}

// nobodyListens reports whether err says that there is no daemon, or that one died while it was
// asked, as opposed to one that is in trouble.
func nobodyListens(err error) bool {
	for _, gone := range []error{os.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// startDaemon starts a daemon in a session of its own and returns when it answers.
func (a *app) startDaemon(ctx context.Context, client *api.Client) error {
	tools, err := host.FindTools()
	if err != nil {
		return err
	}
	log, err := a.openDaemonLog()
	if err != nil {
		return err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return fmt.Errorf("open the daemon's log: %w", err)
	}
	command := exec.Command(tools.Self, "daemon", "run") //nolint:noctx // it outlives this command
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	command.Dir = "/"
	if err := command.Start(); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	died := make(chan struct{})
	go func() {
		_ = command.Wait() // why it died stands in its log
		close(died)
	}()
	if err := awaitDaemon(ctx, client, died); err != nil {
		return fmt.Errorf("start daemon: %w%s", err, logSince(log.Name(), info.Size()))
	}
	return nil
}

// openDaemonLog opens the log that a new daemon goes on with. One that has grown large is moved
// aside.
func (a *app) openDaemonLog() (*os.File, error) {
	if err := os.MkdirAll(string(a.config.Home), 0o700); err != nil {
		return nil, fmt.Errorf("make home folder: %w", err)
	}
	path := a.config.Home.Log()
	if info, err := os.Stat(path); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, fmt.Errorf("move the daemon's log aside: %w", err)
		}
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's log: %w", err)
	}
	return log, nil
}

// awaitDaemon returns when a daemon answers. When the one we started dies, another command may just
// have won the race to start one, so the socket gets some more time.
func awaitDaemon(ctx context.Context, client *api.Client, died <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var giveUp <-chan time.Time
	for {
		_, err := client.Status(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-died:
			died = nil
			timer := time.NewTimer(time.Second)
			defer timer.Stop()
			giveUp = timer.C
		case <-giveUp:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// logSince returns what the daemon wrote since the offset, to be shown below an error.
func logSince(path string, offset int64) string {
	data, err := os.ReadFile(path)
	if err != nil || int64(len(data)) <= offset {
		return "\n  its log: " + path
	}
	return "\n  " + strings.ReplaceAll(strings.TrimSpace(string(data[offset:])), "\n", "\n  ")
}
