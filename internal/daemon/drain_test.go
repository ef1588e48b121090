package daemon

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/home"
)

// zstdMagic begins an archive, as far as that a load of it goes on reading.
const zstdMagic = "\x28\xb5\x2f\xfd"

// change is a load of an image that goes on until the test feeds its end.
type change struct {
	feed *io.PipeWriter
	done chan error
}

// begin starts a change and returns when the daemon has it under way.
func (r *running) begin(t *testing.T) *change {
	t.Helper()
	archive, feed := io.Pipe()
	c := &change{feed, make(chan error, 1)}
	began := make(chan struct{}, 16)
	go func() {
		_, err := r.client.LoadImage(t.Context(), api.LoadImage{}, archive, func(api.Progress) { began <- struct{}{} })
		c.done <- err
	}()
	t.Cleanup(func() { feed.Close() })
	if _, err := io.WriteString(feed, zstdMagic); err != nil {
		t.Fatal(err)
	}
	within(t, began, "the change's beginning")
	return c
}

// end feeds the rest of a change, which is no archive, and returns how the daemon ended it.
func (c *change) end(t *testing.T) error {
	t.Helper()
	c.feed.Close()
	return within(t, c.done, "the change's end")
}

func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing within 20 s", what)
		panic("unreachable")
	}
}

// stop asks for the daemon's end beside the test.
func (r *running) stop(ctx context.Context, drain bool) chan error {
	stopped := make(chan error, 1)
	go func() { stopped <- r.client.StopDaemon(ctx, api.StopDaemon{Drain: drain}) }()
	return stopped
}

// awaitDraining returns the status of a daemon that waits for one change.
func (r *running) awaitDraining(t *testing.T) api.DaemonStatus {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for {
		status, err := r.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if status.Draining {
			return status
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("the daemon does not make way")
		}
	}
}

// draining starts a daemon with a change under way that another one wants to replace.
func draining(t *testing.T) (r *running, c *change, stopped chan error) {
	t.Helper()
	r = start(t, home.Dir(shortDir(t)))
	c = r.begin(t)
	stopped = r.stop(t.Context(), true)
	status := r.awaitDraining(t)
	if len(status.Left) != 1 || !strings.HasPrefix(status.Left[0], "load image (") {
		t.Errorf("left: %q", status.Left)
	}
	return r, c, stopped
}

func pending(c <-chan error) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

// A daemon that makes way finishes what is under way, answers what reads and refuses what changes;
// its home is free only when the change is done.
func TestDrainWaitsForChanges(t *testing.T) {
	r, c, stopped := draining(t)
	if vms, err := r.client.Machines(t.Context()); err != nil || vms == nil {
		t.Errorf("machines while draining = %v, %v", vms, err)
	}
	for name, err := range map[string]error{
		"CreateMachine": second(r.client.CreateMachine(t.Context(), api.CreateMachine{Name: "web"}, nil)),
		"RemoveImage":   r.client.RemoveImage(t.Context(), "x"),
		"PullKernel":    second(r.client.PullKernel(t.Context(), api.PullKernel{Source: "debian:trixie"}, nil)),
	} {
		if e, _ := errors.AsType[*api.Error](err); e == nil || e.Code != api.CodeReplaced ||
			!strings.Contains(e.Message, "1 left: load image (") {
			t.Errorf("%s while draining = %v", name, err)
		}
	}
	another := r.stopOfAnother(t)
	if _, err := lockHome(shortContext(t), r.config.Home); err == nil {
		t.Fatal("the home folder was free before the change was done")
	}
	if !pending(stopped) || !pending(another) {
		t.Error("a stop was answered before the change was done")
	}
	if err := c.end(t); err == nil || api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("the change ended with %v, want its own error", err)
	}
	if err := within(t, stopped, "the answer of the stop"); err != nil {
		t.Errorf("StopDaemon = %v", err)
	}
	// net/http drops a request that it reads after Shutdown began.
	if err := within(t, another, "the answer of the other stop"); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the other StopDaemon = %v", err)
	}
	next := start(t, r.config.Home) // at once: the answer says that the folder is free
	r.client.CloseIdle()
	r.wait(t)
	next.cancel()
	next.wait(t)
}

// stopOfAnother is a second client's drain, which the daemon has accepted.
func (r *running) stopOfAnother(t *testing.T) chan error {
	t.Helper()
	conn, err := net.Dial("unix", r.config.Home.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "POST /v1/daemon/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"drain\":true}"); err != nil {
		t.Fatal(err)
	}
	r.settle(t)
	answered := make(chan error, 1)
	go func() {
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil && response.StatusCode != http.StatusNoContent {
			err = errors.New(response.Status)
		}
		conn.Close()
		answered <- err
	}()
	return answered
}

func shortContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// A drain can be cut short: by a stop that does not drain, and by a signal.
func TestDrainIsCutShort(t *testing.T) {
	for name, cut := range map[string]func(*testing.T, *running){
		"Stop": func(t *testing.T, r *running) {
			if err := r.client.StopDaemon(t.Context(), api.StopDaemon{}); err != nil {
				t.Errorf("StopDaemon = %v", err)
			}
		},
		"Signal": func(_ *testing.T, r *running) { r.cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			r, c, stopped := draining(t)
			cut(t, r)
			if err := within(t, c.done, "the change's end"); err == nil {
				t.Error("a change that was cut is a success")
			}
			if err := within(t, stopped, "the answer of the drain"); err != nil {
				t.Errorf("the drain that was cut = %v", err)
			}
			r.client.CloseIdle()
			r.wait(t)
			next := start(t, r.config.Home)
			next.cancel()
			next.wait(t)
		})
	}
}

// A client that asked for the end and left has still asked for it.
func TestDrainOfClientThatLeft(t *testing.T) {
	r := start(t, home.Dir(shortDir(t)))
	c := r.begin(t)
	ctx, leave := context.WithCancel(t.Context())
	stopped := r.stop(ctx, true)
	r.awaitDraining(t)
	leave()
	if err := within(t, stopped, "the client's end"); !errors.Is(err, context.Canceled) {
		t.Errorf("the client that left got %v", err)
	}
	if err := c.end(t); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("the change ended with %v", err)
	}
	r.client.CloseIdle()
	r.wait(t)
}

// A stop without drain ends what is under way, and answers once the home is free.
func TestStopCuts(t *testing.T) {
	r := start(t, home.Dir(shortDir(t)))
	c := r.begin(t)
	if err := r.client.StopDaemon(t.Context(), api.StopDaemon{}); err != nil {
		t.Errorf("StopDaemon = %v", err)
	}
	unlock, err := lockHome(t.Context(), r.config.Home)
	if err != nil {
		t.Fatalf("the home folder is not free: %v", err)
	}
	unlock()
	if err := within(t, c.done, "the change's end"); err == nil {
		t.Error("a change that was cut is a success")
	}
	r.client.CloseIdle()
	r.wait(t)
}

// Many clients that ask for the end at once all get what they asked for.
func TestManyStops(t *testing.T) {
	r := start(t, home.Dir(shortDir(t)))
	c := r.begin(t)
	var all []chan error
	for i := range 8 {
		all = append(all, r.stop(t.Context(), i%2 == 0)) // some drain
	}
	for _, done := range all {
		// A client that comes while the socket is being closed meets nobody; whom the daemon heard,
		// it answers.
		if e, refused := errors.AsType[*api.Error](within(t, done, "the answer of a stop")); refused {
			t.Errorf("StopDaemon = %v", e)
		}
	}
	within(t, c.done, "the change's end")
	r.client.CloseIdle()
	r.wait(t)
}
