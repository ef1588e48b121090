// Package plan says what the network's namespace holds: the state that the keeper tells the holder,
// the messages that carry it, and the rules that follow from it. It does nothing; package holder
// makes it so.
package plan

import "net/netip"

// Request is what the keeper asks of the holder over a unix socket: a Reply comes as soon as it
// connects, then one for each Request, all of them JSON. Descriptors that a reply gives come beside
// it (unix(7), SCM_RIGHTS).
type Request struct {
	State   *State         `json:"state,omitempty"`  // to be made so
	DNS     netip.Addr     `json:"dns,omitzero"`     // the gateway's address, to share the sockets for DNS there
	Service netip.AddrPort `json:"service,omitzero"` // where to open a TCP socket, which comes with the reply
	Relay   bool           `json:"relay,omitempty"`  // to share the relay's files: two devices, listeners
	Stop    bool           `json:"stop,omitempty"`   // to end, and the namespaces with it
}

// Reply is what the holder answers.
type Reply struct {
	PID   int    `json:"pid"`
	IPv6  bool   `json:"ipv6,omitempty"`  // it can make that; a holder of an earlier build says nothing
	State *State `json:"state,omitempty"` // as last made, nil before the first
	Error string `json:"error,omitempty"`
}
