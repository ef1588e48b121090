package httpapi

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/control"
)

// Every operation of the table is bound, and nothing else is.
func TestAllBound(t *testing.T) {
	s := newServer(t)
	for _, op := range api.Operations {
		if name := op.Describe().Name; !s.bound[name] {
			t.Errorf("%s is not bound", name)
		}
		delete(s.bound, op.Describe().Name)
	}
	for name := range s.bound {
		t.Errorf("%s is bound, but is no operation of the table", name)
	}
}

// kinds binds one operation of each kind and right, which do nothing.
func kinds(s *Server) {
	unary(s, opGreet, greet)
	unary(s, opLook, greet)
	long(s, opLong, greet)
	upload(s, opUpload, func(context.Context, ref, io.Reader) (said, error) { return said{}, nil })
	longUpload(s, opLoad, func(context.Context, ref, io.Reader) (said, error) { return said{}, nil })
	download(s, opDown, func(context.Context, ref, control.Stream) error { return nil })
	hold(s, opHold, func(_ context.Context, _ ref, held func()) error {
		held()
		return nil
	})
}

// A daemon that is being replaced refuses what changes its home. What reads, and what belongs to a
// guest or goes on for as long as its client, it goes on to answer.
func TestGateClosed(t *testing.T) {
	c := control.New(control.Options{})
	s := serve(t, c, kinds)
	leave, err := c.Gate.Enter("POST images/load")
	if err != nil {
		t.Fatal(err)
	}
	empty := c.Gate.Close()
	in, to := greeting{Who: "web"}, ref{"web"}
	for _, test := range []struct {
		name    string
		refused bool
		err     error
	}{
		{"Write", true, second(api.Call(t.Context(), s.client, opGreet, in))},
		{"Read", false, second(api.Call(t.Context(), s.client, opLook, in))},
		{"Long", true, second(api.Stream(t.Context(), s.client, opLong, in, nil, nil))},
		{"Upload", false, second(api.Upload(t.Context(), s.client, opUpload, to, strings.NewReader("x")))},
		{"LongUpload", true, second(api.UploadStream(t.Context(), s.client, opLoad, to, strings.NewReader("x"), nil))},
		{"LongUploadEndless", true, second(api.UploadStream(t.Context(), s.client, opLoad, to, onlyReader{strings.NewReader(strings.Repeat("x", 8<<20))}, nil))},
		{"Download", false, second(api.Download(t.Context(), s.client, opDown, to))},
		{"Hold", false, api.Hold(t.Context(), s.client, opHold, to)},
	} {
		switch {
		case test.refused && (test.err == nil || api.CodeOf(test.err) != api.CodeReplaced):
			t.Errorf("%s = %v, want it refused", test.name, test.err)
		case test.refused && !strings.Contains(test.err.Error(), "1 left: POST images/load ("):
			t.Errorf("%s = %v, which does not name what is waited for", test.name, test.err)
		case !test.refused && test.err != nil:
			t.Errorf("%s = %v", test.name, test.err)
		}
	}
	if status, _, body := s.raw(t, http.MethodPost, "greet/web", ""); status != http.StatusMisdirectedRequest {
		t.Errorf("status %d: %s", status, body)
	}
	leave()
	await(t, empty, "the end of all changes")
}

func second[T any](_ T, err error) error { return err }

// A change under way keeps the gate until its answer has been given, also when it fails or panics.
func TestGateIsLeft(t *testing.T) {
	inside := make(chan []string, 1)
	c := control.New(control.Options{})
	s := serve(t, c, func(s *Server) {
		unary(s, opGreet, func(_ context.Context, in greeting) (said, error) {
			if in.Who == "panics" {
				panic(http.ErrAbortHandler)
			}
			c.Gate.Close()
			_, left := c.Gate.State()
			inside <- left
			return said{}, io.ErrUnexpectedEOF
		})
	})
	if _, err := api.Call(t.Context(), s.client, opGreet, greeting{Who: "panics"}); err == nil {
		t.Error("a panic is a success")
	}
	if _, err := api.Call(t.Context(), s.client, opGreet, greeting{Who: "web"}); api.CodeOf(err) != api.CodeInternal {
		t.Errorf("the change = %v", err)
	}
	if left := await(t, inside, "the change"); len(left) != 1 || left[0] != "greet (0s)" {
		t.Errorf("under way: %q", left)
	}
	await(t, c.Gate.Close(), "the end of all changes")
}

// A change is logged once, with how it ended; what reads is not logged.
func TestLogged(t *testing.T) {
	s := serveOps(t, kinds)
	in := greeting{Who: "web"}
	for _, test := range []struct {
		name string
		ask  func()
		want string // "" for no line
	}{
		{"Write", func() { api.Call(t.Context(), s.client, opGreet, in) }, `level=INFO msg=request method=POST path=/v1/greet/web`},
		{"Read", func() { api.Call(t.Context(), s.client, opLook, in) }, ""},
		{"ReadFails", func() { api.Call(t.Context(), s.client, opLook, greeting{Who: "nobody"}) }, ""},
		{"Fails", func() { api.Call(t.Context(), s.client, opGreet, greeting{Who: "trouble"}) }, `error="disk I/O error"`},
		{"LongFails", func() { api.Stream(t.Context(), s.client, opLong, greeting{Who: "nobody"}, nil, nil) }, `error="no one is called nobody"`},
		{"Long", func() { api.Stream(t.Context(), s.client, opLong, in, nil, nil) }, `level=INFO msg=request method=POST path=/v1/long/web`},
		{"BadRequest", func() { s.raw(t, http.MethodPost, "greet/web", `{"nonsense":1}`) }, `level=WARN msg="request failed" method=POST path=/v1/greet/web`},
		{"Upload", func() { api.Upload(t.Context(), s.client, opUpload, ref{"web"}, strings.NewReader("")) }, `method=PUT path=/v1/up/web`},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.ask()
			if test.want == "" {
				if lines := s.log.lines(); len(lines) != 0 {
					t.Errorf("log: %q", lines)
				}
				return
			}
			lines := s.awaitLog(t)
			if len(lines) != 1 || !strings.Contains(lines[0], test.want) {
				t.Errorf("log: %q, want one line with %s", lines, test.want)
			}
		})
	}
}

// awaitLog returns what was logged; a request's line may come a moment after its answer.
func (s *served) awaitLog(t *testing.T) []string {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for {
		if lines := s.log.lines(); len(lines) > 0 {
			return lines
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("nothing was logged")
		}
	}
}
