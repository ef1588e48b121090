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
	"banger/internal/daemon"
	"banger/internal/host"
)

const (
	// dialTimeout bounds the question whether a daemon is there.
	dialTimeout = 5 * time.Second
	// startTimeout is how long a new daemon may take to answer; it recovers all VMs first.
	startTimeout = 30 * time.Second
	// maxLogBytes is where the daemon's log is moved aside at a start.
	maxLogBytes = 8 << 20
)

// connect returns a client of a daemon of this very build: it starts one when none runs, and replaces one of another
// build, whose VMs and open sessions go on.
func (a *app) connect(ctx context.Context) (*api.Client, error) {
	if err := daemon.CheckHome(a.config.Home); err != nil {
		return nil, err
	}
	client := api.NewClient(daemon.SocketPath(a.config.Home))
	mine, err := build.ID()
	if err != nil {
		return nil, err
	}
	status, err := a.status(ctx, client)
	if err == nil && status.Build == mine {
		return client, nil
	}
	if err == nil {
		if err := client.StopDaemon(ctx, api.StopDaemon{Drain: true}); err != nil {
			return nil, fmt.Errorf("replace the daemon of another build: %w", err)
		}
	} else if !nobodyListens(err) {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	return client, a.startDaemon(ctx, client)
}

func (a *app) status(ctx context.Context, client *api.Client) (api.DaemonStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return client.Status(ctx)
}

// nobodyListens reports whether err says that there is no daemon, or that one died while it was asked, as opposed to one
// that is in trouble.
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
	if err := os.MkdirAll(a.config.Home, 0o700); err != nil {
		return fmt.Errorf("make home folder: %w", err)
	}
	path := daemon.LogPath(a.config.Home)
	if info, err := os.Stat(path); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(path, path+".old"); err != nil {
			return fmt.Errorf("move the daemon's log aside: %w", err)
		}
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the daemon's log: %w", err)
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
	if err := a.awaitDaemon(ctx, client, died); err != nil {
		return fmt.Errorf("start daemon: %w%s", err, logSince(path, info.Size()))
	}
	return nil
}

// awaitDaemon returns when a daemon answers. When the one we started dies, another command may just have won the race
// to start one, so the socket gets some more time.
func (a *app) awaitDaemon(ctx context.Context, client *api.Client, died <-chan struct{}) error {
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
