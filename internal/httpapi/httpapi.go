// Package httpapi binds the operations of package api to HTTP: it decodes their input, calls
// package control, and answers as the operation's kind says. What an operation does is not known
// here.
//
// Each change is logged once, with how it ended. Requests and sessions end with the context given
// to New.
package httpapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"banger/api"
	"banger/internal/control"
)

// Server is the HTTP handler of the whole API.
type Server struct {
	gate     *control.Gate
	log      *slog.Logger
	ctx      context.Context // ends when all sessions must end
	mux      *http.ServeMux
	bound    map[string]bool // names of operations
	sessions sync.WaitGroup  // hijacked connections, which http.Server does not wait for
}

// New returns the handler of a Control's operations.
func New(ctx context.Context, c *control.Control, log *slog.Logger) *Server {
	s := &Server{gate: c.Gate, log: log, ctx: ctx, mux: http.NewServeMux(), bound: map[string]bool{}}
	s.bindAll(c)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, api.Errorf(api.CodeNotFound, "no such call: %s %s", r.Method, r.URL.Path))
	})
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(api.VersionHeader, strconv.Itoa(api.Version))
	s.mux.ServeHTTP(w, r)
}

// Wait returns when no session is left. Call it after http.Server.Shutdown, which sees to it that
// none begins any more.
func (s *Server) Wait() { s.sessions.Wait() }

// handle binds one operation to a handler.
func (s *Server) handle(spec api.Spec, handler http.HandlerFunc) {
	s.bound[spec.Name] = true
	if spec.Right == api.RightWrite && spec.Kind != api.KindUpgrade { // a session tells its own end
		handler = s.logged(handler)
	}
	s.mux.HandleFunc(spec.Route, handler)
}

// decode reads an operation's input, and then has a change enter the gate: what a client is slow to
// send keeps no daemon from making way.
func decode[In any](s *Server, spec api.Spec, r *http.Request) (in In, leave func(), err error) {
	leave = func() {}
	if in, err = api.DecodeInput[In](r); err != nil {
		return in, leave, err
	}
	if spec.Mutates() && spec.Name != api.OpStopDaemon.Name { // which is how the daemon comes to be replaced
		leave, err = s.gate.Enter(control.Words(spec.Name, r.PathValue("machine")+r.PathValue("image")+r.PathValue("kernel")))
	}
	if leave == nil {
		leave = func() {}
	}
	return in, leave, err
}

// logged logs a request that changes something, with how it ended.
func (s *Server) logged(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		outcome := &outcome{ResponseWriter: w}
		next(outcome, r)
		attrs := []any{"method", r.Method, "path", r.URL.Path, "took", time.Since(began).Round(time.Millisecond)}
		if outcome.err != nil {
			s.log.Warn("request failed", append(attrs, "error", outcome.err)...)
			return
		}
		s.log.Info("request", attrs...)
	}
}

// outcome remembers the error that a handler answered with.
type outcome struct {
	http.ResponseWriter
	err error
}

// Unwrap lets http.ResponseController reach the connection.
func (o *outcome) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	e := note(w, err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status())
	_ = json.NewEncoder(w).Encode(e) // the client is gone: there is nobody to tell
}

// note turns any error into the API's one kind, and lets the log know the original.
func note(w http.ResponseWriter, err error) *api.Error {
	if o, ok := w.(*outcome); ok {
		o.err = err
	}
	return control.PublicError(err)
}
