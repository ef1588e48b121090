// Package firecracker is the daemon's side of a VMM: a typed client of Firecracker's REST API and the VMM's process.
//
// It knows the contract only. Whether `firecracker` or `firecracker-qemu` is behind it is the caller's choice, and
// makes no difference here. The client is banger's own because the public Go SDK stands still at an old API.
package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	// callTimeout bounds one request; a VMM answers in milliseconds, except a start that probes KVM first.
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

// Client speaks to one VMM over its API socket. Every call has a deadline of its own. It keeps no connection open: a
// VMM serves ten, and the calls are few. It is safe for concurrent use.
type Client struct {
	http *http.Client
}

// NewClient returns a client of the VMM that listens on socket.
func NewClient(socket string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
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
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, reader)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // its URL is made up
		}
		return fmt.Errorf("ask VMM %s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	return readAnswer(response, method+" "+path, answer)
}

func readAnswer(response *http.Response, call string, answer any) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("%s: read answer: %w", call, err)
	}
	if response.StatusCode/100 != 2 {
		var fault struct {
			Message string `json:"fault_message"`
		}
		if json.Unmarshal(data, &fault) != nil || fault.Message == "" {
			fault.Message = response.Status
		}
		return &Fault{Call: call, Status: response.StatusCode, Message: fault.Message}
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%s: read answer: %w", call, err)
	}
	return nil
}
