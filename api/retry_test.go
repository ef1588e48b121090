package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// A daemon that makes way drops the requests that it has not read. With Before, which finds the
// next one, what only reads is asked again, once; what changes something is not, for it may have
// been done.
func TestClientAsksAgain(t *testing.T) {
	for _, test := range []struct {
		name  string
		drops int // so many requests
		ask   func(context.Context, *Client) error
		want  int // requests
		good  bool
	}{
		{"Read", 1, func(ctx context.Context, c *Client) error { _, err := c.Machines(ctx); return err }, 2, true},
		{"ReadTwice", 2, func(ctx context.Context, c *Client) error { _, err := c.Machines(ctx); return err }, 2, false},
		{"Download", 1, func(ctx context.Context, c *Client) error {
			r, err := c.Logs(ctx, Logs{Machine: "web"})
			if err == nil {
				r.Close()
			}
			return err
		}, 2, true},
		{"Write", 1, func(ctx context.Context, c *Client) error { return c.RemoveImage(ctx, "x") }, 1, false},
		{"Long", 1, func(ctx context.Context, c *Client) error {
			_, err := c.StartMachine(ctx, StartMachine{Machine: "x"}, nil)
			return err
		}, 1, false},
		{"Upload", 1, func(ctx context.Context, c *Client) error {
			return c.WriteFiles(ctx, Files{Machine: "x"}, strings.NewReader("x"))
		}, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var requests atomic.Int32 // the handler of a dropped one may still be there
			found := 0
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if int(requests.Add(1)) <= test.drops {
					panic(http.ErrAbortHandler)
				}
				say(http.StatusOK, "[]")(w, nil)
			})
			c.Before = func(context.Context, Spec) error {
				found++
				return nil
			}
			err := test.ask(t.Context(), c)
			if (err == nil) != test.good || int(requests.Load()) != test.want || found != test.want {
				t.Errorf("%v after %d requests, %d times looked for a daemon; want %d", err, requests.Load(), found, test.want)
			}
		})
	}
	c := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	looked := 0
	c.Before = func(context.Context, Spec) error {
		if looked++; looked == 2 {
			return errors.New("no daemon starts")
		}
		return nil
	}
	if _, err := c.Machines(t.Context()); err == nil || err.Error() != "no daemon starts" {
		t.Errorf("when no next one is found: %v", err)
	}
}

// A daemon that makes way refuses in words what it has not taken; with Before, which waits for the
// next one, it is asked for again.
func TestClientAsksNextDaemon(t *testing.T) {
	var refusals atomic.Int32
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if refusals.Add(-1) >= 0 {
			say(http.StatusMisdirectedRequest, `{"code":"replaced","message":"being replaced"}`)(w, nil)
			return
		}
		say(http.StatusOK, `{"result":{"name":"web"}}`)(w, nil)
	})
	refusals.Store(2)
	if _, err := c.StartMachine(t.Context(), StartMachine{Machine: "web"}, nil); CodeOf(err) != CodeReplaced {
		t.Errorf("without Before = %v", err)
	}
	c.Before = func(context.Context, Spec) error { return nil }
	refusals.Store(2)
	if got, err := c.StartMachine(t.Context(), StartMachine{Machine: "web"}, nil); err != nil || got.Name != "web" {
		t.Errorf("with Before = %+v, %v", got, err)
	}
	refusals.Store(1000)
	if _, err := c.SetNAT(t.Context(), SetNAT{Machine: "web"}); CodeOf(err) != CodeReplaced {
		t.Errorf("of one that always refuses = %v", err)
	}
}
