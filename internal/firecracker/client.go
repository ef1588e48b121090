// Package firecracker is the daemon's side of a VMM: a typed client of Firecracker's REST API and
// the VMM's process.
//
// It knows the contract only. Whether `firecracker` or `firecracker-qemu` is behind it is the
// caller's choice, and makes no difference here. The client is banger's own because the public Go
// SDK stands still at an old API.
package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"banger/internal/unixhttp"
)

const (
	// callTimeout bounds one request; a VMM answers in milliseconds, except a start that probes KVM
	// first.
	callTimeout = 30 * time.Second
	// maxAnswerBytes bounds an answer: a VMM that went wild must not fill the daemon.
	maxAnswerBytes = 1 << 20
)

// Fault is a request that the VMM refused.
type Fault struct {
	Call    string // method and path
	Status  int
	Message string // the VMM's fault_message
}

func (f *Fault) Error() string { return fmt.Sprintf("%s: %s", f.Call, f.Message) }

// Client speaks to one VMM over its API socket. Every call has a deadline of its own. It keeps no
// connection open: a VMM serves ten, and the calls are few. It is safe for concurrent use.
type Client struct {
	http *unixhttp.Client
}

// NewClient returns a client of the VMM that listens on socket.
func NewClient(socket string) *Client {
	return &Client{unixhttp.New(socket, callTimeout, maxAnswerBytes)}
}

// Info returns who answers and in which state the microVM is.
func (c *Client) Info(ctx context.Context) (InstanceInfo, error) {
	var info InstanceInfo
	return info, c.call(ctx, http.MethodGet, "/", nil, &info)
}

// PutMachineConfig sets CPUs and memory, before the start.
func (c *Client) PutMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.call(ctx, http.MethodPut, "/machine-config", m, nil)
}

// PutBootSource sets what is booted, before the start. The VMM opens the files at once.
func (c *Client) PutBootSource(ctx context.Context, b BootSource) error {
	return c.call(ctx, http.MethodPut, "/boot-source", b, nil)
}

// PutDrive adds a drive, before the start. The VMM opens the file at once.
func (c *Client) PutDrive(ctx context.Context, d Drive) error {
	return c.call(ctx, http.MethodPut, "/drives/"+url.PathEscape(d.DriveID), d, nil)
}

// PutNetworkInterface adds a network card, before the start. The VMM opens the tap at once.
func (c *Client) PutNetworkInterface(ctx context.Context, n NetworkInterface) error {
	return c.call(ctx, http.MethodPut, "/network-interfaces/"+url.PathEscape(n.IfaceID), n, nil)
}

// PutVsock adds the vsock device, before the start. The VMM binds the socket at once.
func (c *Client) PutVsock(ctx context.Context, v Vsock) error {
	return c.call(ctx, http.MethodPut, "/vsock", v, nil)
}

// PutSerial says where the console goes, before the start.
func (c *Client) PutSerial(ctx context.Context, s Serial) error {
	return c.call(ctx, http.MethodPut, "/serial", s, nil)
}

// PutBalloon adds the balloon, before the start.
func (c *Client) PutBalloon(ctx context.Context, b Balloon) error {
	return c.call(ctx, http.MethodPut, "/balloon", b, nil)
}

// PutEntropy adds the random device, before the start.
func (c *Client) PutEntropy(ctx context.Context, e Entropy) error {
	return c.call(ctx, http.MethodPut, "/entropy", e, nil)
}

// InstanceStart boots the microVM; it returns when its CPUs run.
func (c *Client) InstanceStart(ctx context.Context) error {
	return c.call(ctx, http.MethodPut, "/actions", action{"InstanceStart"}, nil)
}

// call makes one request; answer may be nil.
func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	err := c.http.Call(ctx, method, path, body, answer)
	if err == nil {
		return nil
	}
	call := method + " " + path
	refused, ok := errors.AsType[*unixhttp.StatusError](err)
	if !ok {
		return fmt.Errorf("ask VMM %s: %w", call, err)
	}
	var fault struct {
		Message string `json:"fault_message"`
	}
	if json.Unmarshal(refused.Body, &fault) != nil || fault.Message == "" {
		fault.Message = refused.Error()
	}
	return &Fault{Call: call, Status: refused.Code, Message: fault.Message}
}
