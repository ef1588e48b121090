package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/home"
	"banger/internal/unixhttp"
)

const (
	// readyTimeout is how long a keeper may take to start; 50 ms is usual.
	readyTimeout = 30 * time.Second
	// requestTimeout bounds a request; it may wait for others that change the network.
	requestTimeout = 60 * time.Second
	pollInterval   = 5 * time.Millisecond
)

// MaxMessageBytes bounds a message; a state of a thousand endpoints has about 300 KB.
const MaxMessageBytes = 4 << 20

// Failure is the body of a reply that is not 2xx.
type Failure struct {
	Error string `json:"error"`
}

// Client is the daemon's side of a home's network. It is safe for concurrent use. Other methods
// than Ensure fail when no keeper runs.
type Client struct {
	d        Dir
	rootless bool
	command  []string
	http     *unixhttp.Client
}

// NewClient returns the client of a home's network. The command starts its keeper: a process that
// calls Serve, with the keeper's Config.Ready at ReadyFD.
func NewClient(h home.Dir, rootless bool, command []string) *Client {
	d := HomeDir(h)
	return &Client{
		d: d, rootless: rootless, command: command,
		http: unixhttp.New(d.ControlSocket(), requestTimeout, MaxMessageBytes),
	}
}

// Ensure returns when a keeper serves the home: the one that runs, or a new one, which outlives ctx
// and this process. Endpoints that a killed keeper had are still there; those of a namespace that
// is gone are not: attach them again.
func (c *Client) Ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout,
		fmt.Errorf("the network was not ready within %s", readyTimeout))
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		held, err := c.held()
		if err != nil {
			return err
		}
		if !held {
			err = c.start(ctx)
			if !errors.Is(err, ErrServed) {
				return err
			}
		} else if _, err := c.Status(ctx); err == nil {
			return nil
		}
		// Another process's keeper is starting or ending.
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// held reports whether a keeper has the lock. It does not keep it, so two callers may both see that
// none has; of their two keepers one ends with ErrServed.
func (c *Client) held() (bool, error) {
	if err := c.d.Check(); err != nil {
		return false, err
	}
	if err := os.MkdirAll(string(c.d), 0o700); err != nil {
		return false, fmt.Errorf("make network's folder: %w", err)
	}
	lock, err := os.OpenFile(c.d.Lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, fmt.Errorf("open network's lock: %w", err)
	}
	defer lock.Close()
	// A shared lock, so that two who ask do not take each other for a keeper.
	err = unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// start starts a keeper and waits until it is ready. A keeper that is not by then is ended.
func (c *Client) start(ctx context.Context) error {
	log, err := os.OpenFile(c.d.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open network's log: %w", err)
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer ready.Close()
	command := exec.Command(c.command[0], c.command[1:]...) //nolint:noctx // it outlives ctx
	command.Stdout, command.Stderr, command.ExtraFiles = log, log, []*os.File{theirs}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = command.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start network: %w", err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = command.Wait() }() // reaps it whenever it ends
	defer context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })()
	said := hearReady(ready)
	if said == nil {
		return nil
	}
	err = command.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-ended
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	if errors.Is(said, errSilent) {
		return fmt.Errorf("start network: %w, see %s", said, c.d.Log())
	}
	return fmt.Errorf("start network: %w", said)
}

// Attach gives a VM its tap. It is idempotent, and changes name and policy of an endpoint that is
// attached.
func (c *Client) Attach(ctx context.Context, p Endpoint) (Tap, error) {
	var tap Tap
	if err := c.call(ctx, http.MethodPut, "/ports", p, &tap); err != nil {
		return Tap{}, fmt.Errorf("attach %s: %w", p.ID, err)
	}
	return tap, nil
}

// Detach deletes a VM's tap and forgets the endpoint. It is idempotent.
func (c *Client) Detach(ctx context.Context, id string) error {
	if err := c.call(ctx, http.MethodDelete, "/ports/"+url.PathEscape(id), nil, nil); err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	return nil
}

// SetPolicy changes what a VM may reach, connections that stand included. ErrNotFound says that it
// is not attached.
func (c *Client) SetPolicy(ctx context.Context, id string, p Policy) error {
	return c.call(ctx, http.MethodPut, "/ports/"+url.PathEscape(id)+"/policy", p, nil)
}

// Status returns what the network is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	if err := c.call(ctx, http.MethodGet, "/status", nil, &s); err != nil {
		return Status{}, fmt.Errorf("ask network's status: %w", err)
	}
	return s, nil
}

// Stop takes the network down and returns when nothing of it is left in the host's namespaces. VMs
// must have ended. It is idempotent.
func (c *Client) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	held, err := c.held()
	if err != nil || !held {
		return err
	}
	if err := c.call(ctx, http.MethodPost, "/stop", nil, nil); err != nil {
		return fmt.Errorf("stop network: %w", err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if held, err := c.held(); err != nil || !held {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the network's end: %w", ctx.Err())
		}
	}
}

// Enter returns the command line that runs argv inside the network's namespaces, with the holder's
// pid from Status. The pid is the holder's for as long as the network runs; a network that ends
// between the two calls is a race that is left.
func (c *Client) Enter(holderPID int, argv []string) []string {
	return Enter(holderPID, c.rootless, argv)
}

// Enter returns the command line that runs argv inside the network namespace of a process, and its
// user namespace.
func Enter(pid int, rootless bool, argv []string) []string {
	enter := []string{"nsenter", "--preserve-credentials", "--target", strconv.Itoa(pid), "--net"}
	if rootless {
		enter = append(enter, "--user")
	}
	return append(append(enter, "--"), argv...)
}

// call makes a request and decodes the answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	err := c.http.Call(ctx, method, path, in, out)
	refused, ok := errors.AsType[*unixhttp.StatusError](err)
	if !ok {
		return err
	}
	var failure Failure
	if err := json.Unmarshal(refused.Body, &failure); err != nil {
		return fmt.Errorf("%w: %w", refused, err)
	}
	if refused.Code == http.StatusNotFound {
		return fmt.Errorf("%w: %s", ErrNotFound, failure.Error)
	}
	return errors.New(failure.Error)
}
