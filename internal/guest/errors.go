package guest

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"connectrpc.com/connect"

	agentv1 "banger/proto/agent/v1"
)

// What a caller may want to tell apart. Other errors are the agent's own words.
var (
	ErrUnreachable = errors.New("guest agent unreachable") // no connection, or lost while the call ran
	ErrNotFound    = errors.New("not found in the guest")  // a user, folder, file or process that is not there
	ErrInvalid     = errors.New("refused by the guest")    // a request that can not be meant
)

// ProtocolError says that agent and host are of versions that do not understand each other.
type ProtocolError struct {
	Agent  int // 0 when the agent did not say
	Banger int
}

func (e *ProtocolError) Error() string {
	agent := "an unknown protocol"
	if e.Agent != 0 {
		agent = fmt.Sprintf("protocol %d", e.Agent)
	}
	return fmt.Sprintf("the machine runs an agent of %s, this banger speaks %d: restart the machine", agent, e.Banger)
}

// checkProtocol judges the number in a response's header.
func checkProtocol(header string) error {
	n, err := strconv.ParseUint(header, 10, 16)
	if err == nil && n == agentv1.Protocol {
		return nil
	}
	return &ProtocolError{Agent: int(n), Banger: agentv1.Protocol}
}

// fromAgent turns an error of Connect into one of this package, with the call's name in front.
func fromAgent(ctx context.Context, call string, err error) error {
	if err == nil {
		return nil
	}
	if protocol := (*ProtocolError)(nil); errors.As(err, &protocol) {
		return protocol
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", call, context.Cause(ctx))
	}
	if errors.Is(err, ErrUnreachable) {
		return fmt.Errorf("%s: %w", call, err)
	}
	var e *connect.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", call, err)
	}
	if !connect.IsWireError(err) { // not the agent's words: the transport broke
		return fmt.Errorf("%s: %w: %s", call, ErrUnreachable, e.Message())
	}
	switch e.Code() {
	case connect.CodeNotFound:
		return &wordedError{call + ": " + e.Message(), ErrNotFound}
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeResourceExhausted:
		return &wordedError{call + ": " + e.Message(), ErrInvalid}
	}
	return errors.New(call + ": " + e.Message())
}

// wordedError is the agent's message with a sentinel behind it.
type wordedError struct {
	message string
	kind    error
}

func (e *wordedError) Error() string { return e.message }
func (e *wordedError) Unwrap() error { return e.kind }
