package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	agentv1 "banger/proto/agent/v1"
)

// Conn is a connection to a socket in a VM. Recv may run beside Send and CloseWrite. Close must be called.
type Conn struct {
	ctx    context.Context
	cancel context.CancelFunc
	stream *connect.BidiStreamForClientSimple[agentv1.DialRequest, agentv1.DialResponse]
	ended  atomic.Bool // Recv has told the end
	sent   atomic.Bool // CloseWrite has told the guest

	sendMu sync.Mutex // the stream takes one sender at a time
}

// lingerTimeout is how long Close lets a guest take what was sent to it.
const lingerTimeout = 10 * time.Second

// Dial connects to a port of the VM ("tcp" or "udp") and returns when the connection stands. address is one of the VM's
// own; without one it is whichever of them has a listener, loopback first. The connection ends with Close or ctx.
// ErrInvalid says that nothing listens there.
func (c *Client) Dial(ctx context.Context, network, address string, port uint16) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	conn := &Conn{ctx: ctx, cancel: cancel}
	open := &agentv1.DialOpen{Network: network, Address: address, Port: uint32(port)}
	if err := conn.open(c, open); err != nil {
		err = fromAgent(ctx, fmt.Sprintf("connect to port %d of the guest", port), err)
		cancel()
		return nil, err
	}
	return conn, nil
}

func (c *Conn) open(client *Client, open *agentv1.DialOpen) (err error) {
	if c.stream, err = client.agent.Dial(c.ctx); err != nil {
		return err
	}
	// A send fails with EOF when the agent has refused already; Receive tells why.
	if err := c.stream.Send(&agentv1.DialRequest{Request: &agentv1.DialRequest_Open{Open: open}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	first, err := c.stream.Receive()
	if err == nil && first.GetOpened() == nil {
		err = errors.New("the agent sent data before the connection stood")
	}
	return err
}

// Recv returns what the guest sent next, and io.EOF when it will send no more. Over udp each call returns one datagram.
// Any other error means that the connection is broken.
func (c *Conn) Recv() ([]byte, error) {
	if c.ended.Load() {
		return nil, io.EOF
	}
	response, err := c.stream.Receive()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("receive: %w: stream ended early", ErrUnreachable)
	}
	if err != nil {
		return nil, fromAgent(c.ctx, "receive", err)
	}
	switch r := response.Response.(type) {
	case *agentv1.DialResponse_Data:
		return r.Data, nil
	case *agentv1.DialResponse_End:
		c.ended.Store(true)
		return nil, io.EOF
	}
	return nil, errors.New("receive: the agent sent a message of no known kind")
}

// Send sends at most 64 KiB. It blocks while the guest does not take them.
func (c *Conn) Send(data []byte) error {
	return c.send(&agentv1.DialRequest{Request: &agentv1.DialRequest_Data{Data: data}})
}

// CloseWrite tells the guest that nothing follows; what it sends still comes.
func (c *Conn) CloseWrite() error {
	err := c.send(&agentv1.DialRequest{Request: &agentv1.DialRequest_End{End: &agentv1.DialEnd{}}})
	c.sent.Store(err == nil)
	return err
}

func (c *Conn) send(r *agentv1.DialRequest) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	err := c.stream.Send(r)
	if errors.Is(err, io.EOF) { // the agent ended the connection; Recv tells why
		return fmt.Errorf("send: %w", ErrUnreachable)
	}
	return fromAgent(c.ctx, "send", err)
}

// Close ends the connection. When both directions have ended it first lets the guest take what it was sent; otherwise the
// guest sees a reset. Closing twice is harmless.
func (c *Conn) Close() error {
	if c.ended.Load() && c.sent.Load() {
		timer := time.AfterFunc(lingerTimeout, c.cancel)
		_, _ = c.stream.Receive() // the agent ends the stream once it is done
		timer.Stop()
	}
	c.cancel() // first, or a blocked sender would hold back the rest
	c.sendMu.Lock()
	_ = c.stream.CloseRequest()
	c.sendMu.Unlock()
	_ = c.stream.CloseResponse()
	return nil
}
