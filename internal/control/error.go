package control

import (
	"context"
	"errors"

	"banger/api"
	"banger/internal/guest"
)

// PublicError turns any error of an operation into the API's one kind: it keeps the code, hint and
// remedies of the api.Error inside err and shows the whole chain as the message.
func PublicError(err error) *api.Error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return &api.Error{Code: e.Code, Message: err.Error(), Hint: e.Hint, Remedies: e.Remedies}
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
