package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"banger/api"
	"banger/internal/control"
	"banger/internal/progress"
)

// bindAll ties each operation to what does it.
func (s *Server) bindAll(c *control.Control) {
	unary(s, api.OpStatus, c.Status)
	unary(s, api.OpStopDaemon, c.StopDaemon)
	unary(s, api.OpDoctor, c.Doctor)
	download(s, api.OpOpenAPI, func(_ context.Context, _ api.None, to control.Stream) error {
		_, err := to.Write(api.OpenAPI)
		return err
	})

	unary(s, api.OpMachines, c.Machines)
	unary(s, api.OpMachine, c.Machine)
	long(s, api.OpCreateMachine, c.CreateMachine)
	s.bindRun(c)
	long(s, api.OpStartMachine, c.StartMachine)
	long(s, api.OpStopMachine, c.StopMachine)
	long(s, api.OpRestartMachine, c.RestartMachine)
	unary(s, api.OpKillMachine, c.KillMachine)
	unary(s, api.OpRemoveMachine, c.RemoveMachine)
	hold(s, api.OpLeaseMachine, c.LeaseMachine)
	unary(s, api.OpWaitMachine, c.WaitMachine)
	unary(s, api.OpSetNAT, c.SetNAT)
	unary(s, api.OpSetHostServices, c.SetHostServices)
	unary(s, api.OpAddForward, c.AddForward)
	unary(s, api.OpRemoveForward, c.RemoveForward)
	unary(s, api.OpPorts, c.Ports)
	unary(s, api.OpPrepareSSH, c.PrepareSSH)
	unary(s, api.OpStatsMachine, c.StatsMachine)
	download(s, api.OpLogs, c.Logs)
	download(s, api.OpReadFiles, c.ReadFiles)
	upload(s, api.OpWriteFiles, c.WriteFiles)
	s.bindExec(c)

	unary(s, api.OpImages, c.Images)
	unary(s, api.OpImage, c.Image)
	long(s, api.OpPullImage, c.PullImage)
	longWithLog(s, api.OpBuildImage, c.BuildImage)
	download(s, api.OpBuildLog, c.BuildLog)
	unary(s, api.OpRemoveImage, c.RemoveImage)
	unary(s, api.OpTagImage, c.TagImage)
	long(s, api.OpPromoteImage, c.PromoteImage)
	download(s, api.OpSaveImage, c.SaveImage)
	long(s, api.OpRegisterImage, c.RegisterImage)
	longUpload(s, api.OpLoadImage, c.LoadImage)
	unary(s, api.OpPruneImages, c.PruneImages)

	unary(s, api.OpKernels, c.Kernels)
	unary(s, api.OpKernel, c.Kernel)
	long(s, api.OpPullKernel, c.PullKernel)
	long(s, api.OpImportKernel, c.ImportKernel)
	unary(s, api.OpPruneKernels, c.PruneKernels)
	unary(s, api.OpRemoveKernel, c.RemoveKernel)
}

// unary binds a KindUnary; api.None answers 204.
func unary[In, Out any](s *Server, op api.Op[In, Out], do func(context.Context, In) (Out, error)) {
	s.handle(op.Spec, func(w http.ResponseWriter, r *http.Request) {
		in, leave, err := decode[In](s, op.Spec, r)
		defer leave()
		if err != nil {
			fail(w, err)
			return
		}
		value, err := do(r.Context(), in)
		answer(w, value, err)
	})
}

func answer[T any](w http.ResponseWriter, value T, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	if _, empty := any(value).(api.None); empty {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the client is gone: there is nobody to tell
}

// upload binds a KindUpload.
func upload[In, Out any](s *Server, op api.Op[In, Out], do func(context.Context, In, io.Reader) (Out, error)) {
	s.handle(op.Spec, func(w http.ResponseWriter, r *http.Request) {
		in, leave, err := decode[In](s, op.Spec, r)
		defer leave()
		if err != nil {
			fail(w, err)
			return
		}
		defer endsReading(w, r)()
		value, err := do(r.Context(), in, r.Body)
		answer(w, value, err)
	})
}

// long binds a KindProgress.
func long[In, Out any](s *Server, op api.Op[In, Out], do func(context.Context, In) (Out, error)) {
	longWithLog(s, op, func(ctx context.Context, in In, _ io.Writer) (Out, error) { return do(ctx, in) })
}

// longWithLog is long for an operation that also has a log to tell.
func longWithLog[In, Out any](s *Server, op api.Op[In, Out], do func(context.Context, In, io.Writer) (Out, error)) {
	s.handle(op.Spec, func(w http.ResponseWriter, r *http.Request) {
		in, leave, err := decode[In](s, op.Spec, r)
		defer leave()
		if api.CodeOf(err) == api.CodeReplaced {
			fail(w, err)
			return
		}
		stream(w, r, func(ctx context.Context, log io.Writer) (Out, error) {
			if err != nil {
				var none Out
				return none, err
			}
			return do(ctx, in, log)
		})
	})
}

// leftoverTimeout is how long a client may go on sending what nobody wants any more.
const leftoverTimeout = 10 * time.Second

// longUpload binds a KindUploadProgress: it answers while it reads the request. What the client
// still sends after the answer is thrown away, for a client that cannot write may never look for
// the answer.
func longUpload[In, Out any](s *Server, op api.Op[In, Out], do func(context.Context, In, io.Reader) (Out, error)) {
	s.handle(op.Spec, func(w http.ResponseWriter, r *http.Request) {
		connection := http.NewResponseController(w)
		w.Header().Set("Connection", "close") // what is left of the body may not be read to its end
		if err := connection.EnableFullDuplex(); err != nil {
			fail(w, err)
			return
		}
		in, leave, err := decode[In](s, op.Spec, r)
		defer leave()
		if err != nil {
			fail(w, err)
			return
		}
		stop := endsReading(w, r)
		stream(w, r, func(ctx context.Context, _ io.Writer) (Out, error) { return do(ctx, in, r.Body) })
		if stop() && connection.Flush() == nil && connection.SetReadDeadline(time.Now().Add(leftoverTimeout)) == nil {
			_, _ = io.Copy(io.Discard, r.Body) // the client is done, or gone
		}
	})
}

// endsReading makes the end of a request's context end what reads its body, which would wait for a
// client that sends nothing. stop ends that, and reports whether the context had not ended.
func endsReading(w http.ResponseWriter, r *http.Request) (stop func() bool) {
	return context.AfterFunc(r.Context(), func() {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // without it the connection is closed later
	})
}

// stream answers with api.Events, one JSON object a line, progress first, the result or the error
// last.
func stream[Out any](w http.ResponseWriter, r *http.Request, do func(context.Context, io.Writer) (Out, error)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	var mu sync.Mutex // stages report from several goroutines
	encoder, controller := json.NewEncoder(w), http.NewResponseController(w)
	send := func(e api.Event[Out]) {
		mu.Lock()
		defer mu.Unlock()
		if encoder.Encode(e) == nil {
			_ = controller.Flush() // the client is gone: there is nobody to tell
		}
	}
	ctx := progress.With(r.Context(), func(p api.Progress) { send(api.Event[Out]{Progress: &p}) })
	log := &lineWriter{send: func(lines string) { send(api.Event[Out]{Log: lines}) }}
	value, err := do(ctx, log)
	log.end()
	if err != nil {
		send(api.Event[Out]{Error: note(w, err)})
		return
	}
	send(api.Event[Out]{Result: &value})
}

// download binds a KindDownload. An error after the first byte cuts the connection, so that the
// client cannot take a part for the whole.
func download[In any](s *Server, op api.Op[In, api.None], do func(context.Context, In, control.Stream) error) {
	s.handle(op.Spec, func(w http.ResponseWriter, r *http.Request) {
		in, leave, err := decode[In](s, op.Spec, r)
		defer leave()
		if err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", op.Media)
		body := &body{ResponseWriter: w}
		if err := do(r.Context(), in, body); err != nil {
			if body.started {
				s.log.Warn("download was cut", "path", r.URL.Path, "error", err)
				panic(http.ErrAbortHandler)
			}
			fail(w, err)
		}
	})
}

// body is a download's answer, which knows whether anything was written.
type body struct {
	http.ResponseWriter
	started bool
}

func (b *body) Write(p []byte) (int, error) {
	b.started = true
	return b.ResponseWriter.Write(p)
}

// Flush sends what was written.
func (b *body) Flush() error {
	b.started = true
	return http.NewResponseController(b.ResponseWriter).Flush()
}

// hold binds a KindHold: it answers at once and then keeps the request open, whose end ends the
// operation.
func hold[In any](s *Server, op api.Op[In, api.None], do func(context.Context, In, func()) error) {
	s.handle(op.Spec, func(w http.ResponseWriter, r *http.Request) {
		in, leave, err := decode[In](s, op.Spec, r)
		defer leave()
		if err != nil {
			fail(w, err)
			return
		}
		answered := false
		err = do(r.Context(), in, func() {
			answered = true
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush() // a client that is gone ends the context
		})
		switch {
		case err == nil:
		case answered:
			_ = note(w, err) // for the log: the client is gone
		default:
			fail(w, err)
		}
	})
}

// maxLineBytes is where a line without an end is sent all the same.
const maxLineBytes = 64 << 10

// lineWriter sends what is written to it in whole lines, so that no character is cut in two.
type lineWriter struct {
	send func(lines string)
	rest []byte
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	end := bytes.LastIndexByte(l.rest, '\n') + 1
	if end == 0 && len(l.rest) > maxLineBytes {
		end = len(l.rest)
	}
	if end > 0 {
		l.send(strings.ToValidUTF8(string(l.rest[:end]), "\uFFFD"))
		l.rest = append(l.rest[:0], l.rest[end:]...)
	}
	return len(p), nil
}

// end sends a last line that has no end.
func (l *lineWriter) end() {
	if len(l.rest) > 0 {
		l.send(strings.ToValidUTF8(string(l.rest), "\uFFFD") + "\n")
	}
}
