package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/home"
)

// lockTimeout is how long a daemon that does not answer may hold the home folder: one that is being
// killed, or that has just started and recovers its VMs.
const lockTimeout = 25 * time.Second

// lockHome takes the home folder for this process alone; the lock's file names it for people. It
// refuses at once when the daemon that has the folder answers.
func lockHome(ctx context.Context, dir home.Dir) (unlock func(), err error) {
	file, err := os.OpenFile(dir.Lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock home folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock home folder: %w", err), file.Close())
		}
		if ctx.Err() == nil && !answers(ctx, dir.Socket()) {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			continue
		}
		pid := make([]byte, 32)
		n, _ := file.ReadAt(pid, 0)
		file.Close()
		return nil, api.Errorf(api.CodeConflict, "another daemon (pid %s) serves %s", strings.TrimSpace(string(pid[:n])), dir).
			WithRemedy(api.OpStopDaemon.Remedy(api.StopDaemon{}, "end it"))
	}
	if err := errors.Join(file.Truncate(0), writePID(file)); err != nil {
		return nil, errors.Join(fmt.Errorf("lock home folder: %w", err), file.Close())
	}
	return func() { file.Close() }, nil
}

// answers reports whether a process listens on the socket.
func answers(ctx context.Context, socket string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func writePID(file *os.File) error {
	_, err := fmt.Fprintln(file, os.Getpid())
	return err
}

// listen makes the socket, for this user only. A socket that is there is a dead daemon's: we hold
// the home's lock.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	// The folder is 0700, so nobody connects between bind and chmod.
	listener, err := net.Listen("unix", path) //nolint:noctx // binding a unix socket does not block
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), listener.Close())
	}
	return listener, nil
}
