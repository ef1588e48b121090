package unixhttp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const maxAnswer = 100

// serve runs a server and returns a client of it.
func serve(t *testing.T, timeout time.Duration, handler http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return New(socket, timeout, maxAnswer)
}

type word struct {
	Word string `json:"word"`
}

func TestCall(t *testing.T) {
	for _, tt := range []struct {
		name    string
		in, out any
		status  int
		answer  string
		wantAsk string // method, path, type of the body and the body
		want    string // in out
		wantErr string
	}{
		{"Both", word{"hi"}, new(word), 200, `{"word":"ho"}`, `PUT /a/b?c application/json {"word":"hi"}`, "ho", ""},
		{"NoBody", nil, new(word), 200, `{"word":"ho"}`, `PUT /a/b?c  `, "ho", ""},
		{"NoAnswer", word{"hi"}, nil, 204, ``, `PUT /a/b?c application/json {"word":"hi"}`, "", ""},
		{"AnswerNobodyWants", nil, nil, 200, `no JSON`, `PUT /a/b?c  `, "", ""},
		{"ErrRefused", nil, new(word), 409, `taken`, `PUT /a/b?c  `, "", "409 Conflict"},
		{"ErrNoJSON", nil, new(word), 200, `{`, `PUT /a/b?c  `, "", "read answer: unexpected end"},
		{"ErrTooLong", nil, new(word), 200, `{"word":"` + strings.Repeat("x", maxAnswer) + `"}`, `PUT /a/b?c  `, "", "read answer: more than 100 bytes"},
		{"ErrRefusedTooLong", nil, nil, 500, strings.Repeat("x", maxAnswer+1), `PUT /a/b?c  `, "", "read answer: more than 100 bytes"},
		{"ErrNotToBeSent", func() {}, nil, 200, ``, ``, "", "unsupported type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked string
			c := serve(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				asked = strings.Join([]string{r.Method, r.RequestURI, r.Header.Get("Content-Type"), string(body)}, " ")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.answer)
			})
			err := c.Call(t.Context(), http.MethodPut, "/a/b?c", tt.in, tt.out)
			if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
			if asked != tt.wantAsk {
				t.Errorf("asked %q, want %q", asked, tt.wantAsk)
			}
			if out, ok := tt.out.(*word); ok && out.Word != tt.want {
				t.Errorf("answer %q, want %q", out.Word, tt.want)
			}
			refused, ok := errors.AsType[*StatusError](err)
			if want := tt.name == "ErrRefused"; ok != want || ok && (refused.Code != tt.status || string(refused.Body) != tt.answer) {
				t.Errorf("%#v, want a StatusError: %v", err, want)
			}
		})
	}
}

func TestCallFails(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name   string
		client *Client
		ctx    context.Context
		want   error
	}{
		{"ErrNobody", New(filepath.Join(t.TempDir(), "s"), time.Minute, maxAnswer), t.Context(), syscall.ENOENT},
		{"ErrTimeout", serve(t, time.Millisecond, hang), t.Context(), context.DeadlineExceeded},
		{"ErrCancelled", serve(t, time.Minute, hang), cancelled, context.Canceled},
		{"ErrBrokenOff", serve(t, time.Minute, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), t.Context(), io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.client.Call(tt.ctx, http.MethodGet, "/", nil, nil); !errors.Is(err, tt.want) || strings.Contains(err.Error(), "http://") {
				t.Errorf("error %v, want %v, and no URL", err, tt.want)
			}
		})
	}
}
