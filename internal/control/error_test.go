package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/guest"
)

func TestPublicError(t *testing.T) {
	inner := api.Errorf(api.CodeConflict, "taken: %w", io.EOF).WithHint("rm it")
	tests := []struct {
		name string
		err  error
		want api.Error
	}{
		{"Own", inner, api.Error{Code: api.CodeConflict, Message: "taken: EOF", Hint: "rm it"}},
		{"WholeChain", fmt.Errorf("create machine: %w", inner), api.Error{Code: api.CodeConflict, Message: "create machine: taken: EOF", Hint: "rm it"}},
		{"Joined", errors.Join(inner, io.EOF), api.Error{Code: api.CodeConflict, Message: "taken: EOF\nEOF", Hint: "rm it"}},
		{"GuestNotFound", fmt.Errorf("read: %w", guest.ErrNotFound), api.Error{Code: api.CodeNotFound, Message: "read: " + guest.ErrNotFound.Error()}},
		{"GuestInvalid", guest.ErrInvalid, api.Error{Code: api.CodeInvalid, Message: guest.ErrInvalid.Error()}},
		{"GuestUnreachable", guest.ErrUnreachable, api.Error{Code: api.CodeUnavailable, Message: guest.ErrUnreachable.Error()}},
		{"Canceled", context.Canceled, api.Error{Code: api.CodeCanceled, Message: "context canceled"}},
		{"Deadline", fmt.Errorf("wait: %w", context.DeadlineExceeded), api.Error{Code: api.CodeTimeout, Message: "wait: context deadline exceeded"}},
		{"Other", io.EOF, api.Error{Code: api.CodeInternal, Message: "EOF"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, *PublicError(tt.err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if got := PublicError(fmt.Errorf("ask: %w", &guest.ProtocolError{})); got.Code != api.CodeUnsupported {
		t.Errorf("another protocol = %+v, want unsupported", got)
	}
}
