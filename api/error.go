package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code is the closed set of ways in which a request can fail; programs branch on it, people read
// the message.
type Code string

// All codes.
const (
	CodeInvalid  Code = "invalid"   // the request is wrong and stays wrong: a bad name, size or flag
	CodeNotFound Code = "not_found" // what it names does not exist
	// the thing exists but its state, or another's, forbids it: name taken, still running
	CodeConflict    Code = "conflict"
	CodeUnsupported Code = "unsupported" // this host or this build cannot do it
	// something needed did not answer, or a resource is used up; trying later may help
	CodeUnavailable Code = "unavailable"
	CodeTimeout     Code = "timeout"  // a deadline passed
	CodeCanceled    Code = "canceled" // the client went away, or another request took precedence
	CodeReplaced    Code = "replaced" // the daemon makes way for another one: ask again
	CodeInternal    Code = "internal" // a bug or an unexpected fault; the detail is in the daemon's log
)

// statuses is the only table between codes and HTTP statuses; the client needs just the code in the
// body.
var statuses = map[Code]int{
	CodeInvalid:     http.StatusBadRequest,
	CodeNotFound:    http.StatusNotFound,
	CodeConflict:    http.StatusConflict,
	CodeUnsupported: http.StatusNotImplemented,
	CodeUnavailable: http.StatusServiceUnavailable,
	CodeTimeout:     http.StatusGatewayTimeout,
	CodeReplaced:    http.StatusMisdirectedRequest,
	CodeCanceled:    499, // "client closed request", as nginx numbers it
	CodeInternal:    http.StatusInternalServerError,
}

// Error is a failed request. It is the JSON body of every answer that is not a success.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what the user can do about it, a sentence or a command of the host
	// Remedies are operations that help. Whoever shows the error offers them in its own words.
	Remedies []Remedy `json:"remedies,omitempty"`
	Err      error    `json:"-"` // the cause, inside one process only
}

// Errorf makes an Error whose message is formatted as fmt.Errorf does, %w included, also several of
// them.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
	if _, several := err.(interface{ Unwrap() []error }); several {
		e.Err = err
	}
	return e
}

// WithHint says what the user can do, where that is no operation of banger's, and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithRemedy adds an operation that helps and returns e; see Op.Remedy.
func (e *Error) WithRemedy(r Remedy) *Error {
	e.Remedies = append(e.Remedies, r)
	return e
}

// Error returns the message; hint and remedies are shown apart.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, if it is known in this process.
func (e *Error) Unwrap() error { return e.Err }

// Status returns the HTTP status of e's code.
func (e *Error) Status() int {
	if status, ok := statuses[e.Code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// CodeOf returns the code of the first Error in err's chain, or CodeInternal.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}
