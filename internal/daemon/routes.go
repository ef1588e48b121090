package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/progress"
)

// maxBodyBytes bounds a JSON request.
const maxBodyBytes = 4 << 20

// routes is the whole API. Every change of a VM, image or kernel is logged once, in mutation.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/daemon", answer(s.status))
	mux.HandleFunc("POST /v1/daemon/stop", s.mutation(s.stopDaemon))
	mux.HandleFunc("GET /v1/doctor", answer(s.doctor))

	mux.HandleFunc("GET /v1/vms", answer(s.listVMs))
	mux.HandleFunc("POST /v1/vms", s.mutation(stream(s.createVM)))
	mux.HandleFunc("GET /v1/vms/{vm}", answer(s.inspectVM))
	mux.HandleFunc("DELETE /v1/vms/{vm}", s.mutation(answer(s.removeVM)))
	mux.HandleFunc("POST /v1/vms/{vm}/start", s.mutation(stream(s.startVM)))
	mux.HandleFunc("POST /v1/vms/{vm}/stop", s.mutation(stream(s.stopVM)))
	mux.HandleFunc("POST /v1/vms/{vm}/restart", s.mutation(stream(s.restartVM)))
	mux.HandleFunc("POST /v1/vms/{vm}/kill", s.mutation(answer(s.killVM)))
	mux.HandleFunc("PUT /v1/vms/{vm}/nat", s.mutation(answer(s.setNAT)))
	mux.HandleFunc("POST /v1/vms/{vm}/forwards", s.mutation(answer(s.addForward)))
	mux.HandleFunc("DELETE /v1/vms/{vm}/forwards", s.mutation(answer(s.removeForward)))
	mux.HandleFunc("GET /v1/vms/{vm}/ports", answer(s.ports))
	mux.HandleFunc("PUT /v1/vms/{vm}/host-services", s.mutation(answer(s.setHostServices)))
	mux.HandleFunc("POST /v1/vms/{vm}/ssh", s.mutation(answer(s.prepareSSH)))
	mux.HandleFunc("POST /v1/vms/{vm}/lease", s.mutation(s.leaseVM))
	mux.HandleFunc("GET /v1/vms/{vm}/wait", answer(s.waitVM))
	mux.HandleFunc("GET /v1/vms/{vm}/stats", answer(s.statsVM))
	mux.HandleFunc("GET /v1/vms/{vm}/logs", s.logs)
	mux.HandleFunc("GET /v1/vms/{vm}/files", s.readFiles)
	mux.HandleFunc("PUT /v1/vms/{vm}/files", s.mutation(s.writeFiles))
	mux.HandleFunc("POST /v1/vms/{vm}/exec", s.exec)

	mux.HandleFunc("GET /v1/images", answer(s.listImages))
	mux.HandleFunc("POST /v1/images/pull", s.mutation(stream(s.pullImage)))
	mux.HandleFunc("POST /v1/images/build", s.mutation(streamLog(s.buildImage)))
	mux.HandleFunc("GET /v1/images/builds/{image}/log", s.buildLog)
	mux.HandleFunc("GET /v1/images/{image}", answer(s.inspectImage))
	mux.HandleFunc("DELETE /v1/images/{image}", s.mutation(answer(s.removeImage)))
	mux.HandleFunc("POST /v1/images/{image}/tags", s.mutation(answer(s.tagImage)))
	mux.HandleFunc("POST /v1/images/{image}/promote", s.mutation(stream(s.promoteImage)))
	mux.HandleFunc("GET /v1/images/{image}/archive", s.saveImage)
	mux.HandleFunc("POST /v1/images/register", s.mutation(stream(s.registerImage)))
	mux.HandleFunc("POST /v1/images/load", s.mutation(duplex(stream(s.loadImage))))
	mux.HandleFunc("POST /v1/images/prune", s.mutation(answer(s.pruneImages)))
	mux.HandleFunc("GET /v1/kernels", answer(s.listKernels))
	mux.HandleFunc("POST /v1/kernels", s.mutation(stream(s.pullKernel)))
	mux.HandleFunc("POST /v1/kernels/import", s.mutation(stream(s.importKernel)))
	mux.HandleFunc("POST /v1/kernels/prune", s.mutation(answer(s.pruneKernels)))
	mux.HandleFunc("GET /v1/kernels/{kernel}", answer(s.inspectKernel))
	mux.HandleFunc("DELETE /v1/kernels/{kernel}", s.mutation(answer(s.removeKernel)))

	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, api.Errorf(api.CodeNotFound, "no such call: %s %s", r.Method, r.URL.Path))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.VersionHeader, strconv.Itoa(api.Version))
		mux.ServeHTTP(w, r)
	})
}

// mutation logs a request that changes something, with how it ended.
func (s *Server) mutation(next http.HandlerFunc) http.HandlerFunc {
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

// answer makes a handler of a function that returns one JSON value; struct{} answers 204.
func answer[T any](do func(*http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := do(r)
		if err != nil {
			fail(w, err)
			return
		}
		if _, empty := any(value).(struct{}); empty {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value) // the client is gone: there is nobody to tell
	}
}

// stream makes a handler of a function that takes long: it answers with api.Events, one JSON object a line, progress
// first, the result or the error last.
func stream[T any](do func(*http.Request) (T, error)) http.HandlerFunc {
	return streamLog(func(r *http.Request, _ io.Writer) (T, error) { return do(r) })
}

// streamLog is stream for a function that also has a log to tell.
func streamLog[T any](do func(*http.Request, io.Writer) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		var mu sync.Mutex // stages report from several goroutines
		encoder, controller := json.NewEncoder(w), http.NewResponseController(w)
		send := func(e api.Event[T]) {
			mu.Lock()
			defer mu.Unlock()
			if encoder.Encode(e) == nil {
				_ = controller.Flush() // as above
			}
		}
		ctx := progress.With(r.Context(), func(p api.Progress) { send(api.Event[T]{Progress: &p}) })
		log := &lineWriter{send: func(lines string) { send(api.Event[T]{Log: lines}) }}
		value, err := do(r.WithContext(ctx), log)
		log.end()
		if err != nil {
			send(api.Event[T]{Error: note(w, err)})
			return
		}
		send(api.Event[T]{Result: &value})
	}
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	e := note(w, err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status())
	_ = json.NewEncoder(w).Encode(e)
}

// note turns any error into the API's one kind, and lets the log know the original.
func note(w http.ResponseWriter, err error) *api.Error {
	if o, ok := w.(*outcome); ok {
		o.err = err
	}
	return publicError(err)
}

// publicError keeps the code and hint of the api.Error inside err and shows the whole chain as the message.
func publicError(err error) *api.Error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return &api.Error{Code: e.Code, Message: err.Error(), Hint: e.Hint}
	}
	for _, known := range []struct {
		is   error
		code api.Code
	}{
		{guest.ErrNotFound, api.CodeNotFound},
		{guest.ErrInvalid, api.CodeInvalid},
		{guest.ErrUnreachable, api.CodeUnavailable},
		{context.Canceled, api.CodeCanceled},
		{context.DeadlineExceeded, api.CodeTimeout},
	} {
		if errors.Is(err, known.is) {
			return &api.Error{Code: known.code, Message: err.Error()}
		}
	}
	if protocol, ok := errors.AsType[*guest.ProtocolError](err); ok {
		return &api.Error{Code: api.CodeUnsupported, Message: protocol.Error()}
	}
	return &api.Error{Code: api.CodeInternal, Message: err.Error()}
}

// decode reads a JSON request strictly; an empty body is the zero value.
func decode[T any](r *http.Request) (T, error) {
	var value T
	decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBodyBytes))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&value)
	if errors.Is(err, io.EOF) {
		return value, nil
	}
	if err == nil {
		// Reading on to the end also lets net/http notice when the client leaves.
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return value, nil
		}
		err = errors.New("something follows the JSON value")
	}
	return value, api.Errorf(api.CodeInvalid, "read request: %w", err)
}

// queryBool reads a flag of the URL; a missing one is false.
func queryBool(r *http.Request, key string) (bool, error) {
	text := r.URL.Query().Get(key)
	if text == "" {
		return false, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, api.Errorf(api.CodeInvalid, "%s=%q is neither true nor false", key, text)
	}
	return value, nil
}
