// Package agentv1 is the contract between the host and the agent in a VM: generated messages, the
// protocol's number and the bounds both ends hold to. The calls themselves are in agentv1connect.
package agentv1

// Protocol is the number of this contract. It grows when an older peer would misread a newer one;
// peers of different numbers refuse each other.
const Protocol = 1

// ProtocolHeader carries Protocol in decimal in each request and each response.
const ProtocolHeader = "Banger-Agent-Protocol"

// Port is the vsock port on which the agent listens.
const Port = 1024

// Bounds of one request.
const (
	MaxMessageBytes = 1 << 20  // any message, encoded
	MaxChunkBytes   = 64 << 10 // data in one message of a stream, as both ends send it
	MaxArgBytes     = 512 << 10
	MaxEntropyBytes = 4096
	MaxPathBytes    = 4096 // PATH_MAX
	MaxPorts        = 4096 // listed by one Ports call
)
