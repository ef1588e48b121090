package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStatus(t *testing.T) {
	tests := []struct {
		code Code
		want int
	}{
		{CodeInvalid, 400},
		{CodeNotFound, 404},
		{CodeConflict, 409},
		{CodeUnsupported, 501},
		{CodeUnavailable, 503},
		{CodeTimeout, 504},
		{CodeCanceled, 499},
		{CodeReplaced, 421},
		{CodeInternal, 500},
		{"of a newer daemon", 500},
	}
	for _, tt := range tests {
		if got := (&Error{Code: tt.code}).Status(); got != tt.want {
			t.Errorf("Status of %q = %d, want %d", tt.code, got, tt.want)
		}
	}
	if got, want := len(statuses), len(tests)-1; got != want {
		t.Errorf("%d codes have a status, the test knows %d", got, want)
	}
	seen := map[int]Code{}
	for code, status := range statuses {
		if other, taken := seen[status]; taken {
			t.Errorf("%s and %s share status %d", code, other, status)
		}
		seen[status] = code
	}
}

func TestErrorJSON(t *testing.T) {
	tests := []struct {
		name string
		err  *Error
		want string
	}{
		{"Plain", Errorf(CodeNotFound, "no machine named %q", "web"), `{"code":"not_found","message":"no machine named \"web\""}`},
		{"Hint", Errorf(CodeInvalid, "bad").WithHint("see: %s", "x"), `{"code":"invalid","message":"bad","hint":"see: x"}`},
		{"CauseStaysHere", Errorf(CodeInternal, "read: %w", io.EOF), `{"code":"internal","message":"read: EOF"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.err)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCodeOf(t *testing.T) {
	inner := Errorf(CodeConflict, "taken: %w", io.ErrNoProgress)
	tests := []struct {
		name string
		err  error
		want Code
	}{
		{"Itself", inner, CodeConflict},
		{"Wrapped", fmt.Errorf("create machine: %w", inner), CodeConflict},
		{"Joined", errors.Join(io.EOF, inner), CodeConflict},
		{"OutermostWins", Errorf(CodeTimeout, "late: %w", inner), CodeTimeout},
		{"Other", io.EOF, CodeInternal},
		{"Nil", nil, CodeInternal},
	}
	for _, tt := range tests {
		if got := CodeOf(tt.err); got != tt.want {
			t.Errorf("%s: CodeOf = %q, want %q", tt.name, got, tt.want)
		}
	}
	if !errors.Is(inner, io.ErrNoProgress) {
		t.Error("the cause given with %w is lost")
	}
	several := Errorf(CodeInternal, "%w: %w", io.ErrShortWrite, inner)
	for _, cause := range []error{io.ErrShortWrite, inner, io.ErrNoProgress} {
		if !errors.Is(several, cause) {
			t.Errorf("of several causes, %v is lost", cause)
		}
	}
}

func TestCodesAreClientErrorsOrServerErrors(t *testing.T) {
	for code, status := range statuses {
		if status < 400 || status > 599 {
			t.Errorf("%s has status %d (%s), which is no failure", code, status, http.StatusText(status))
		}
	}
}
