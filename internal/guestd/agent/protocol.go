package agent

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	agentv1 "banger/proto/agent/v1"
)

// checkProtocol refuses requests of another protocol, in words that a user of either version can
// act on, and says its own number in each response.
func checkProtocol(own int, next http.Handler) http.Handler {
	number := strconv.Itoa(own)
	refusal := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(agentv1.ProtocolHeader, number)
		if got := r.Header.Get(agentv1.ProtocolHeader); got != number {
			_ = refusal.Write(w, r, connect.NewError(connect.CodeFailedPrecondition, protocolError(own, got)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func protocolError(own int, got string) error {
	if _, err := strconv.ParseUint(got, 10, 16); err != nil {
		return errors.New("the caller is no banger: it names no agent protocol")
	}
	return fmt.Errorf("the machine runs an agent of protocol %d, this banger speaks %s: restart the machine", own, got)
}
