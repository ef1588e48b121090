package openapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

// callTimeout bounds one request; a boot under emulation on a busy machine takes half a minute.
const callTimeout = 4 * time.Minute

// program is made by `make build`, as a user has it.
const program = "../../bin/banger"

// home is a running daemon with a home folder of its own, which has the golden image and kernel.
type home struct {
	dir   string
	judge judge
	http  *http.Client
	asked map[string]bool // names of the operations that were answered with success
}

func newHome(t *testing.T) *home {
	t.Helper()
	golden := os.Getenv("BANGER_E2E_GOLDEN")
	if golden == "" {
		t.Fatal("BANGER_E2E_GOLDEN names no home folder with an image and a kernel; scripts/test.sh makes one")
	}
	dir, err := os.MkdirTemp("", "bo-") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := link(golden, dir); err != nil {
		t.Fatalf("copy golden home: %v", err)
	}
	h := &home{dir: dir, judge: newJudge(t), asked: map[string]bool{}}
	h.http = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return h.dial(ctx) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	h.serve(t)
	return h
}

// link gives a home folder the golden image and kernel as hard links, and their records as a copy.
func link(golden, to string) error {
	files, err := filepath.Glob(filepath.Join(golden, "*", "[0-9a-f]*", "*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		target := filepath.Join(to, strings.TrimPrefix(path, golden))
		if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o700), os.Link(path, target)); err != nil {
			return err
		}
	}
	records, err := os.ReadFile(filepath.Join(golden, "state.db"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, "state.db"), records, 0o600)
}

// serve runs a daemon until the test's end, and returns when it listens.
func (h *home) serve(t *testing.T) {
	t.Helper()
	log, err := os.Create(filepath.Join(h.dir, "daemon.log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "daemon", "run")
	command.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "BANGER_HOME=" + h.dir,
		fmt.Sprintf("BANGER_SUBNET=10.%d.0.0/16", 64+os.Getpid()%128), // root's homes share the host's routes
	}
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		h.http.CloseIdleConnections()
		_ = command.Process.Signal(syscall.SIGTERM) // it may have ended
		err := <-ended
		text, _ := os.ReadFile(log.Name())
		log.Close()
		if err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the daemon said:\n%s", text)
		}
	})
	patience, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := h.dial(patience); err == nil {
			conn.Close()
			return
		}
		select {
		case <-tick.C:
		case err := <-ended:
			ended <- err
			t.Fatalf("the daemon ended: %v", err)
		case <-patience.Done():
			t.Fatal("the daemon does not listen")
		}
	}
}

func (h *home) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", filepath.Join(h.dir, "daemon.sock"))
}

// call is one request and what its answer must be, besides as the document says.
type call struct {
	op   api.Operation
	path string   // with its query
	body string   // JSON, or an upload's bytes
	code api.Code // of the error that is wanted, in the answer or as the last event; "" wants success
}

func (c call) String() string {
	return fmt.Sprintf("%s %s %.200q", c.op.Describe().Name, c.path, c.body)
}

// request makes the call's request, which must be as the document says, unless the call is to be
// refused for it.
func (h *home) request(t *testing.T, ctx context.Context, c call) *http.Request {
	t.Helper()
	spec := c.op.Describe()
	method, _, _ := strings.Cut(spec.Route, " ")
	r, err := http.NewRequestWithContext(ctx, method, "http://banger"+c.path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	if got := route(r); got != spec.Route {
		t.Fatalf("%v leads to %s", c, got)
	}
	upload := spec.Kind == api.KindUpload || spec.Kind == api.KindUploadProgress
	switch {
	case upload:
		r.Header.Set("Content-Type", spec.Media)
	case c.body != "":
		r.Header.Set("Content-Type", jsonMedia)
	}
	if faults := h.judge.request(r.Clone(ctx), []byte(c.body)); len(faults) > 0 && c.code != api.CodeInvalid && !upload {
		t.Errorf("%v is no request of the document:\n%s", c, strings.Join(faults, "\n"))
	}
	if spec.Kind == api.KindUpgrade {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", api.ExecUpgrade)
	}
	return r
}

// routes finds the operation that a request means, as the daemon does.
var routes = func() *http.ServeMux {
	mux := http.NewServeMux()
	for _, op := range api.Operations {
		mux.Handle(op.Describe().Route, http.NotFoundHandler())
	}
	return mux
}()

func route(r *http.Request) string {
	_, pattern := routes.Handler(r)
	return pattern
}

// ask makes a call, judges the answer and returns its body; of a stream, the result alone.
func (h *home) ask(t *testing.T, c call) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	r := h.request(t, ctx, c)
	response, err := h.http.Do(r)
	if err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%v: read answer: %v", c, err)
	}
	if faults := h.judge.answer(r, response, body); len(faults) > 0 {
		t.Errorf("%v is answered %s:\n%s", c, response.Status, strings.Join(faults, "\n"))
	}
	if got := response.Header.Get(api.VersionHeader); got != fmt.Sprint(api.Version) {
		t.Errorf("%v: %s is %q", c, api.VersionHeader, got)
	}
	return h.outcome(t, c, response, body)
}

// outcome checks what the document cannot say: the status of an error, the order of events.
func (h *home) outcome(t *testing.T, c call, response *http.Response, body []byte) []byte {
	t.Helper()
	spec := c.op.Describe()
	failure, status := body, 0
	if response.Header.Get("Content-Type") == streamMedia {
		body, failure = lastEvent(t, c, body)
		status = http.StatusOK
	} else if response.StatusCode/100 == 2 {
		failure = nil
	}
	var e api.Error
	if failure != nil {
		if err := json.Unmarshal(failure, &e); err != nil {
			t.Fatalf("%v: %v in %s", c, err, failure)
		}
		if status == 0 {
			status = (&e).Status()
		}
	}
	if e.Code != c.code || status != 0 && response.StatusCode != status {
		t.Errorf("%v is answered %s: %s\nwant code %q", c, response.Status, failure, c.code)
	}
	if c.code != "" {
		return nil
	}
	h.asked[spec.Name] = true
	switch media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); {
	case spec.Kind == api.KindDownload && response.Header.Get("Content-Type") != spec.Media:
		t.Errorf("%v is %s", c, media)
	case response.StatusCode == http.StatusNoContent && (len(body) > 0 || media != ""):
		t.Errorf("%v has no content of type %q: %s", c, media, body)
	}
	return body
}

// lastEvent returns what a stream ends with, one of the two; before it come progress and log alone.
func lastEvent(t *testing.T, c call, body []byte) (result, failure []byte) {
	t.Helper()
	lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	for i, line := range lines {
		var event map[string]json.RawMessage
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("%v: event %s: %v", c, line, err)
		}
		result, failure = event["result"], event["error"]
		if last := i == len(lines)-1; len(event) != 1 || last == (result == nil && failure == nil) {
			t.Errorf("%v: event %d of %d is %s", c, i+1, len(lines), line)
		}
	}
	return result, failure
}

// hold makes a call whose answer goes on; the caller closes it.
func (h *home) hold(t *testing.T, c call) io.Closer {
	t.Helper()
	r := h.request(t, t.Context(), c)
	response, err := h.http.Do(r)
	if err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	if faults := h.judge.answer(r, response, nil); len(faults) > 0 || response.StatusCode != http.StatusOK {
		t.Errorf("%v is answered %s: %q", c, response.Status, faults)
	}
	h.asked[c.op.Describe().Name] = true
	return response.Body
}

// converse makes a call that upgrades its connection, and returns all frames up to the exit.
func (h *home) converse(t *testing.T, c call) []api.Frame {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	conn, err := h.dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r := h.request(t, ctx, c)
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, r) //nolint:bodyclose // the connection is the body
	if err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	if faults := h.judge.answer(r, response, nil); len(faults) > 0 ||
		response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v is answered %s: %q", c, response.Status, faults)
	}
	h.asked[c.op.Describe().Name] = true
	frames, all := api.NewFrameConn(conn, reader), []api.Frame{}
	for {
		frame, err := frames.Read()
		if err != nil {
			t.Fatalf("%v: after %d frames: %v", c, len(all), err)
		}
		all = append(all, api.Frame{Type: frame.Type, Payload: slices.Clone(frame.Payload)})
		if frame.Type == api.FrameExit {
			return all
		}
	}
}
