package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/control"
	"banger/internal/progress"
)

// greeting is an input with a field in each place.
type greeting struct {
	Who  string `json:"-"              path:"who"`
	Loud bool   `json:"-"                         query:"loud"`
	Text string `json:"text,omitempty"`
}

// said is an answer.
type said struct {
	Text string `json:"text"`
}

// op makes an operation of the test's own.
func op[In, Out any](name, route string, kind api.Kind, right api.Right) api.Op[In, Out] {
	return api.Op[In, Out]{Spec: api.Spec{Name: name, Route: route, Kind: kind, Right: right, Media: "text/plain"}}
}

var (
	opGreet  = op[greeting, said]("Greet", "POST /v1/greet/{who}", api.KindUnary, api.RightWrite)
	opTell   = op[greeting, api.None]("Tell", "POST /v1/tell/{who}", api.KindUnary, api.RightWrite)
	opLook   = op[greeting, said]("Look", "GET /v1/look/{who}", api.KindUnary, api.RightRead)
	opLong   = op[greeting, said]("Long", "POST /v1/long/{who}", api.KindProgress, api.RightWrite)
	opUpload = op[ref, said]("Upload", "PUT /v1/up/{who}", api.KindUpload, api.RightWrite)
	opLoad   = op[ref, said]("Load", "POST /v1/load/{who}", api.KindUploadProgress, api.RightWrite)
	opDown   = op[ref, api.None]("Down", "GET /v1/down/{who}", api.KindDownload, api.RightRead)
	opHold   = op[ref, api.None]("Hold", "POST /v1/hold/{who}", api.KindHold, api.RightWrite)
)

// ref is an input without a body.
type ref struct {
	Who string `json:"-" path:"who"`
}

// greet answers, or fails for the names that say so.
func greet(_ context.Context, in greeting) (said, error) {
	switch in.Who {
	case "nobody":
		return said{}, api.Errorf(api.CodeNotFound, "no one is called %s", in.Who).WithHint("look who is there")
	case "trouble":
		return said{}, errors.New("disk I/O error")
	}
	text := in.Text + " " + in.Who
	if in.Loud {
		text = strings.ToUpper(text)
	}
	return said{text}, nil
}

func TestUnary(t *testing.T) {
	s := serveOps(t, func(s *Server) {
		unary(s, opGreet, greet)
		unary(s, opTell, func(ctx context.Context, in greeting) (api.None, error) {
			_, err := greet(ctx, in)
			return api.None{}, err
		})
	})
	for _, test := range []struct {
		in       greeting
		want     string
		wantCode api.Code
		wantHint string
	}{
		{greeting{Who: "web", Text: "hi"}, "hi web", "", ""},
		{greeting{Who: "a/b c?d", Text: "ä", Loud: true}, "Ä A/B C?D", "", ""},
		{greeting{Who: "nobody"}, "", api.CodeNotFound, "look who is there"},
		{greeting{Who: "trouble"}, "", api.CodeInternal, ""},
	} {
		got, err := api.Call(t.Context(), s.client, opGreet, test.in)
		e, _ := errors.AsType[*api.Error](err)
		if got.Text != test.want || (err == nil) != (test.wantCode == "") ||
			e != nil && (e.Code != test.wantCode || e.Hint != test.wantHint) {
			t.Errorf("greet %+v = %q, %v", test.in, got.Text, err)
		}
		if _, toldErr := api.Call(t.Context(), s.client, opTell, test.in); api.CodeOf(toldErr) != api.CodeOf(err) {
			t.Errorf("tell %+v = %v, greet %v", test.in, toldErr, err)
		}
	}
}

// What a client in another language may send, and what it gets.
func TestUnaryOnTheWire(t *testing.T) {
	s := serveOps(t, func(s *Server) {
		unary(s, opGreet, greet)
		unary(s, opTell, func(context.Context, greeting) (api.None, error) { return api.None{}, nil })
	})
	for _, test := range []struct {
		name, target, body string
		status             int
		want               string
	}{
		{"OK", "greet/web", `{"text":"hi"}`, 200, `{"text":"hi web"}`},
		{"NoBody", "greet/web", ``, 200, `{"text":" web"}`},
		{"Spaces", "greet/web", " {\n} \n", 200, `{"text":" web"}`},
		{"Query", "greet/web?loud=1", `{}`, 200, `{"text":" WEB"}`},
		{"None", "tell/web", ``, 204, ``},
		{"UnknownField", "greet/web", `{"txt":"hi"}`, 400, `{"code":"invalid","message":"read request: json: unknown field \"txt\""}`},
		{"OtherType", "greet/web", `{"text":1}`, 400, `"code":"invalid"`},
		{"TwoValues", "greet/web", `{} {}`, 400, `something follows the JSON value`},
		{"Cut", "greet/web", `{"text":`, 400, `"code":"invalid"`},
		{"List", "greet/web", `[]`, 400, `"code":"invalid"`},
		{"UnknownParameter", "greet/web?lod=1", ``, 400, `unknown parameter \"lod\"`},
		{"BadParameter", "greet/web?loud=perhaps", ``, 400, `loud: \"perhaps\" is neither true nor false`},
		{"PathInBody", "greet/web", `{"who":"x"}`, 400, `unknown field`},
		{"TooLarge", "greet/web", `{"text":"` + strings.Repeat("x", 5<<20) + `"}`, 400, `too large`},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, header, body := s.raw(t, "POST", test.target, test.body)
			if status != test.status || !strings.Contains(body, test.want) {
				t.Errorf("%d %s, want %d %s", status, body, test.status, test.want)
			}
			if media := header.Get("Content-Type"); header.Get(api.VersionHeader) != "1" ||
				(media != "application/json") != (status == 204) {
				t.Errorf("headers %v", header)
			}
		})
	}
}

// raw makes a request without the API's client.
func (s *served) raw(t *testing.T, method, target, body string) (int, http.Header, string) {
	t.Helper()
	transport := s.transport()
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://banger/v1/"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(answer)
}

func TestLong(t *testing.T) {
	s := serveOps(t, func(s *Server) {
		longWithLog(s, opLong, func(ctx context.Context, in greeting, log io.Writer) (said, error) {
			stage := progress.Start(ctx, "warm up")
			stage.End(nil)
			io.WriteString(log, "one\ntw")
			io.WriteString(log, "o\nthr\xff")
			return greet(ctx, in)
		})
	})
	for _, test := range []struct {
		who, want string
		code      api.Code
	}{{"web", "hi web", ""}, {"nobody", "", api.CodeNotFound}, {"trouble", "", api.CodeInternal}} {
		var states []api.ProgressState
		log := ""
		got, err := api.Stream(t.Context(), s.client, opLong, greeting{Who: test.who, Text: "hi"},
			func(p api.Progress) { states = append(states, p.State) }, func(lines string) { log += "[" + lines + "]" })
		if got.Text != test.want || test.code != "" && api.CodeOf(err) != test.code || (err == nil) != (test.code == "") {
			t.Errorf("%s: %q, %v", test.who, got.Text, err)
		}
		if diff := cmp.Diff([]api.ProgressState{api.ProgressRunning, api.ProgressDone}, states); diff != "" {
			t.Errorf("%s: stages (-want +got):\n%s", test.who, diff)
		}
		if log != "[one\n][two\n][thr\uFFFD\n]" {
			t.Errorf("%s: log %q", test.who, log)
		}
	}
	// A request that cannot be meant is told in the stream too, as its last event.
	status, header, body := s.raw(t, "POST", "long/web", `{"nonsense":1}`)
	if status != 200 || header.Get("Content-Type") != "application/x-ndjson" ||
		!strings.HasPrefix(body, `{"error":{"code":"invalid",`) {
		t.Errorf("bad request: %d %v %s", status, header, body)
	}
}

// The work of a client that leaves ends.
func TestClientLeaves(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan error, 1)
	block := func(ctx context.Context) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}
	s := serveOps(t, func(s *Server) {
		unary(s, opGreet, func(ctx context.Context, _ greeting) (said, error) { return said{}, block(ctx) })
		long(s, opLong, func(ctx context.Context, _ greeting) (said, error) { return said{}, block(ctx) })
		download(s, opDown, func(ctx context.Context, _ ref, _ control.Stream) error { return block(ctx) })
		longUpload(s, opLoad, func(ctx context.Context, _ ref, r io.Reader) (said, error) {
			if _, err := io.Copy(io.Discard, r); err != nil { // until then it is reading that tells of the client's end
				return said{}, err
			}
			return said{}, block(ctx)
		})
		upload(s, opUpload, func(ctx context.Context, _ ref, r io.Reader) (said, error) {
			began <- struct{}{}
			_, err := io.Copy(io.Discard, r)
			ended <- err
			return said{}, err
		})
	})
	in, to := greeting{Who: "web", Text: "x"}, ref{"web"}
	endless, feed := io.Pipe()
	defer feed.Close()
	go func() {
		for { // until the reader is closed by the client's transport
			if _, err := feed.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	defer endless.Close()
	for name, ask := range map[string]func(context.Context) error{
		"Unary":    func(ctx context.Context) error { _, err := api.Call(ctx, s.client, opGreet, in); return err },
		"Long":     func(ctx context.Context) error { _, err := api.Stream(ctx, s.client, opLong, in, nil, nil); return err },
		"Download": func(ctx context.Context) error { _, err := api.Download(ctx, s.client, opDown, to); return err },
		"LongUpload": func(ctx context.Context) error {
			_, err := api.UploadStream(ctx, s.client, opLoad, to, onlyReader{strings.NewReader("x")}, nil)
			return err
		},
		"Upload": func(ctx context.Context) error {
			_, err := api.Upload(ctx, s.client, opUpload, to, endless)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			result := make(chan error, 1)
			go func() { result <- ask(ctx) }()
			await(t, began, "begin")
			leave()
			if err := await(t, ended, "end of the work"); err == nil {
				t.Error("the work was not told")
			}
			if err := await(t, result, "end of the call"); !errors.Is(err, context.Canceled) {
				t.Errorf("the client got %v", err)
			}
		})
	}
}

func TestUpload(t *testing.T) {
	take := func(_ context.Context, in ref, r io.Reader) (said, error) {
		if in.Who == "nobody" { // refused before anything is read
			return said{}, api.Errorf(api.CodeNotFound, "no one")
		}
		data, err := io.ReadAll(r)
		return said{string(data)}, err
	}
	s := serveOps(t, func(s *Server) {
		upload(s, opUpload, take)
		longUpload(s, opLoad, take)
	})
	big := strings.Repeat("x", 8<<20)
	for _, body := range []string{"", "hello", big} {
		if got, err := api.Upload(t.Context(), s.client, opUpload, ref{"web"}, strings.NewReader(body)); got.Text != body ||
			err != nil {
			t.Errorf("upload of %d bytes = %d bytes, %v", len(body), len(got.Text), err)
		}
		if got, err := api.UploadStream(t.Context(), s.client, opLoad, ref{"web"}, strings.NewReader(body), nil); got.Text != body ||
			err != nil {
			t.Errorf("long upload of %d bytes = %d bytes, %v", len(body), len(got.Text), err)
		}
		// Why it was refused reaches a client that still sends.
		if _, err := api.Upload(t.Context(), s.client, opUpload, ref{"nobody"}, onlyReader{strings.NewReader(body)}); api.CodeOf(
			err,
		) != api.CodeNotFound {
			t.Errorf("refused upload of %d bytes = %v", len(body), err)
		}
		if _, err := api.UploadStream(t.Context(), s.client, opLoad, ref{"nobody"}, onlyReader{strings.NewReader(body)}, nil); api.CodeOf(
			err,
		) != api.CodeNotFound {
			t.Errorf("refused long upload of %d bytes = %v", len(body), err)
		}
	}
}

// A server that ends does not wait for a client that sends nothing.
func TestUploadEndsWithServer(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan error, 1)
	take := func(_ context.Context, _ ref, r io.Reader) (said, error) {
		began <- struct{}{}
		_, err := io.Copy(io.Discard, r)
		ended <- err
		return said{}, err
	}
	for name, bind := range map[string]func(*Server){
		"Upload":     func(s *Server) { upload(s, opUpload, take) },
		"LongUpload": func(s *Server) { longUpload(s, opUpload, take) },
	} {
		t.Run(name, func(t *testing.T) {
			s := serveOps(t, bind)
			body, feed := io.Pipe()
			result := make(chan error, 1)
			go func() {
				_, err := api.Upload(t.Context(), s.client, opUpload, ref{"web"}, body)
				result <- err
			}()
			await(t, began, "begin")
			s.end()
			if err := await(t, ended, "end of the work"); err == nil {
				t.Error("the work took a part for the whole")
			}
			feed.Close()
			await(t, result, "end of the call")
		})
	}
}

// onlyReader hides how long a reader is, as a pipe's length is not known.
type onlyReader struct{ io.Reader }

func TestDownload(t *testing.T) {
	s := serveOps(t, func(s *Server) {
		download(s, opDown, func(_ context.Context, in ref, to control.Stream) error {
			switch in.Who {
			case "nobody":
				return api.Errorf(api.CodeNotFound, "no one")
			case "cut":
				io.WriteString(to, "half")
				return errors.New("disk I/O error")
			case "flushed":
				return errors.Join(to.Flush(), errors.New("disk I/O error"))
			case "empty":
				return nil
			}
			_, err := to.Write(bytes.Repeat([]byte("x"), 1<<20))
			return errors.Join(err, to.Flush())
		})
	})
	for _, test := range []struct {
		who       string
		wantCode  api.Code // of the call
		wantBytes int
		wantErr   bool // of reading
	}{
		{"web", "", 1 << 20, false}, {"empty", "", 0, false}, {"nobody", api.CodeNotFound, 0, false}, {"flushed", "", 0, true},
	} {
		r, err := api.Download(t.Context(), s.client, opDown, ref{test.who})
		if test.wantCode != "" {
			if api.CodeOf(err) != test.wantCode {
				t.Errorf("%s: %v", test.who, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.who, err)
			continue
		}
		data, err := io.ReadAll(r)
		r.Close()
		if len(data) != test.wantBytes || (err != nil) != test.wantErr {
			t.Errorf("%s: %d bytes, %v", test.who, len(data), err)
		}
	}
	s.log.lines()
	// What was not flushed may be lost with the connection; a whole answer it never is.
	if r, err := api.Download(t.Context(), s.client, opDown, ref{"cut"}); err == nil {
		data, err := io.ReadAll(r)
		r.Close()
		if err == nil {
			t.Errorf("a download that broke off is %q", data)
		}
	}
	if lines := s.log.lines(); len(lines) != 1 || !strings.Contains(lines[0], "disk I/O error") ||
		!strings.Contains(lines[0], "path=/v1/down/cut") {
		t.Errorf("log of a cut: %q", lines)
	}
}

func TestHold(t *testing.T) {
	ended := make(chan struct{}, 1)
	s := serveOps(t, func(s *Server) {
		hold(s, opHold, func(ctx context.Context, in ref, held func()) error {
			if in.Who == "nobody" {
				return api.Errorf(api.CodeNotFound, "no one")
			}
			held()
			<-ctx.Done()
			ended <- struct{}{}
			return errors.New("could not let go")
		})
	})
	if err := api.Hold(t.Context(), s.client, opHold, ref{"nobody"}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("hold of nothing = %v", err)
	}
	ctx, letGo := context.WithCancel(t.Context())
	if err := api.Hold(ctx, s.client, opHold, ref{"web"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("it ended by itself")
	default:
	}
	s.log.lines()
	letGo()
	await(t, ended, "end of the hold")
}

func TestLineWriter(t *testing.T) {
	long := strings.Repeat("x", maxLineBytes+1)
	for _, test := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"Nothing", nil, nil},
		{"Line", []string{"a\n"}, []string{"a\n"}},
		{"Lines", []string{"a\nb\nc"}, []string{"a\nb\n", "c\n"}},
		{"CutCharacter", []string{"\xc3", "\xa4\n"}, []string{"ä\n"}},
		{"NoText", []string{"\xff\n"}, []string{"\uFFFD\n"}},
		{"Endless", []string{long, "y"}, []string{long, "y\n"}},
		{"Empty", []string{"", "\n", ""}, []string{"\n"}},
	} {
		var got []string
		w := &lineWriter{send: func(lines string) { got = append(got, lines) }}
		for _, text := range test.writes {
			if n, err := io.WriteString(w, text); n != len(text) || err != nil {
				t.Errorf("%s: Write = %d, %v", test.name, n, err)
			}
		}
		w.end()
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}
