package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/guest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPublicError(t *testing.T) {
	inner := api.Errorf(api.CodeConflict, "taken: %w", io.EOF).WithHint("rm it")
	tests := []struct {
		name string
		err  error
		want api.Error
	}{
		{"Own", inner, api.Error{Code: api.CodeConflict, Message: "taken: EOF", Hint: "rm it"}},
		{"WholeChain", fmt.Errorf("create VM: %w", inner), api.Error{Code: api.CodeConflict, Message: "create VM: taken: EOF", Hint: "rm it"}},
		{"Joined", errors.Join(inner, io.EOF), api.Error{Code: api.CodeConflict, Message: "taken: EOF\nEOF", Hint: "rm it"}},
		{"GuestNotFound", fmt.Errorf("read: %w", guest.ErrNotFound), api.Error{Code: api.CodeNotFound, Message: "read: " + guest.ErrNotFound.Error()}},
		{"GuestInvalid", guest.ErrInvalid, api.Error{Code: api.CodeInvalid, Message: guest.ErrInvalid.Error()}},
		{"GuestUnreachable", guest.ErrUnreachable, api.Error{Code: api.CodeUnavailable, Message: guest.ErrUnreachable.Error()}},
		{"Canceled", context.Canceled, api.Error{Code: api.CodeCanceled, Message: "context canceled"}},
		{"Deadline", fmt.Errorf("wait: %w", context.DeadlineExceeded), api.Error{Code: api.CodeTimeout, Message: "wait: context deadline exceeded"}},
		{"Other", io.EOF, api.Error{Code: api.CodeInternal, Message: "EOF"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, *publicError(tt.err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if got := publicError(fmt.Errorf("ask: %w", &guest.ProtocolError{})); got.Code != api.CodeUnsupported {
		t.Errorf("another protocol = %+v, want unsupported", got)
	}
}

func TestDecode(t *testing.T) {
	tests := []struct {
		name, body string
		want       api.StopVM
		wantErr    string
	}{
		{"Empty", "", api.StopVM{}, ""},
		{"Spaces", " \n", api.StopVM{}, ""},
		{"Object", `{"timeout_ms":5}`, api.StopVM{TimeoutMS: 5}, ""},
		{"NewlineBehind", "{}\n", api.StopVM{}, ""},
		{"ErrUnknownKey", `{"timeout":5}`, api.StopVM{}, `unknown field "timeout"`},
		{"ErrType", `{"timeout_ms":"5"}`, api.StopVM{}, "cannot unmarshal string"},
		{"ErrCut", `{"timeout_ms":5`, api.StopVM{TimeoutMS: 5}, "unexpected EOF"},
		{"ErrTwoValues", `{} {}`, api.StopVM{}, "something follows the JSON value"},
		{"ErrGarbageBehind", `{}x`, api.StopVM{}, "invalid character"},
		{"ErrArray", `[]`, api.StopVM{}, "cannot unmarshal array"},
		{"ErrTooLarge", `{"x":"` + strings.Repeat("x", maxBodyBytes) + `"}`, api.StopVM{}, "request body too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decode[api.StopVM](httptest.NewRequest(http.MethodPost, "/", strings.NewReader(tt.body)))
			if tt.wantErr == "" && (err != nil || got != tt.want) {
				t.Errorf("decode = %+v, %v; want %+v", got, err, tt.want)
			}
			// What follows the value may be refused by either of two checks, with words of their own.
			if tt.wantErr != "" && (api.CodeOf(err) != api.CodeInvalid || err == nil || !strings.Contains(err.Error(), tt.wantErr) && tt.name != "ErrGarbageBehind") {
				t.Errorf("decode = %v, want invalid with %q", err, tt.wantErr)
			}
		})
	}
}

func TestParseSignal(t *testing.T) {
	good := map[string]unix.Signal{
		"": unix.SIGKILL, "KILL": unix.SIGKILL, "SIGKILL": unix.SIGKILL, "kill": unix.SIGKILL, "sigterm": unix.SIGTERM, "9": unix.SIGKILL, "1": 1, "64": 64,
	}
	for text, want := range good {
		if got, err := parseSignal(text); got != want || err != nil {
			t.Errorf("parseSignal(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "65", "-9", "NONE", "SIG", "9 ", "9x"} {
		if got, err := parseSignal(text); api.CodeOf(err) != api.CodeInvalid || err == nil {
			t.Errorf("parseSignal(%q) = %v, %v; want invalid", text, got, err)
		}
	}
}

func TestQueryBool(t *testing.T) {
	for query, want := range map[string]string{"": "false", "force=true": "true", "force=1": "true", "force=false": "false", "force=": "false", "other=true": "false", "force=x": "invalid"} {
		got, err := queryBool(httptest.NewRequest(http.MethodGet, "/?"+query, nil), "force")
		text := fmt.Sprint(got)
		if err != nil {
			text = string(api.CodeOf(err))
		}
		if text != want {
			t.Errorf("queryBool of %q = %s, want %s", query, text, want)
		}
	}
}

// Whatever path and method a client asks for, it gets the API's own kind of answer.
func TestUnknownRoutes(t *testing.T) {
	handler := (&Server{}).routes()
	for _, call := range []string{"GET /", "GET /v1", "GET /v2/vms", "PUT /v1/vms", "GET /v1/vms/web/nonsense", "POST /v1/daemon", "DELETE /v1/doctor"} {
		method, path, _ := strings.Cut(call, " ")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		var e api.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != http.StatusNotFound || e.Code != api.CodeNotFound || e.Message != "no such call: "+call {
			t.Errorf("%s answers %d %s", call, w.Code, w.Body)
		}
		if w.Header().Get(api.VersionHeader) != "1" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s has headers %v", call, w.Header())
		}
	}
}

func TestAnswer(t *testing.T) {
	w := httptest.NewRecorder()
	answer(func(*http.Request) (struct{}, error) { return struct{}{}, nil })(w, nil)
	if w.Code != http.StatusNoContent || w.Body.Len() != 0 {
		t.Errorf("nothing is answered with %d %q", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	answer(func(*http.Request) ([]int, error) { return nil, api.Errorf(api.CodeTimeout, "late") })(w, nil)
	if w.Code != http.StatusGatewayTimeout || w.Body.String() != `{"code":"timeout","message":"late"}`+"\n" {
		t.Errorf("an error is answered with %d %q", w.Code, w.Body)
	}
}
