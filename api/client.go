package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxErrorBytes bounds the body of a failed answer.
const maxErrorBytes = 1 << 20

// Client speaks to one daemon over its unix socket. It is safe for concurrent use. Every method returns an *Error
// when the daemon refused, and another error when the daemon could not be reached or broke off.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client for the daemon that listens on socket. It dials when it is first used.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		// Commands on many VMs at once each keep a connection for as long as they run.
		MaxIdleConnsPerHost: 16,
	}}
	return c
}

// CloseIdle closes connections that wait for reuse.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", c.socket)
}

// Status returns what the daemon says of itself.
func (c *Client) Status(ctx context.Context) (DaemonStatus, error) {
	return call[DaemonStatus](ctx, c, http.MethodGet, "/v1/daemon", nil)
}

// StopDaemon ends the daemon; it returns once the daemon has let go of its home folder.
func (c *Client) StopDaemon(ctx context.Context, s StopDaemon) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/daemon/stop", s)
	return err
}

// Doctor returns what this host can do.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	return call[[]Check](ctx, c, http.MethodGet, "/v1/doctor", nil)
}

// VMs returns all VMs, the oldest first. It never waits for a guest.
func (c *Client) VMs(ctx context.Context) ([]VM, error) {
	return call[[]VM](ctx, c, http.MethodGet, "/v1/vms", nil)
}

// VM returns one VM, by name or by a unique prefix of its id. It never waits for the guest.
func (c *Client) VM(ctx context.Context, ref string) (VM, error) {
	return call[VM](ctx, c, http.MethodGet, vmPath(ref, ""), nil)
}

// CreateVM makes a VM and leaves it stopped. A missing image or kernel is made first. When ctx ends, what was made
// for the VM is undone.
func (c *Client) CreateVM(ctx context.Context, v CreateVM, progress func(Progress)) (VM, error) {
	return stream[VM](ctx, c, "/v1/vms", v, progress)
}

// StartVM starts a VM and returns when its agent answers. When ctx ends before, the VM is stopped again.
// A running VM is left as it is.
func (c *Client) StartVM(ctx context.Context, ref string, progress func(Progress)) (VM, error) {
	return stream[VM](ctx, c, vmPath(ref, "/start"), nil, progress)
}

// StopVM shuts a VM down and returns when no VMM is left. A stopped VM is left as it is.
func (c *Client) StopVM(ctx context.Context, ref string, s StopVM, progress func(Progress)) (VM, error) {
	return stream[VM](ctx, c, vmPath(ref, "/stop"), s, progress)
}

// RestartVM is StopVM, then StartVM.
func (c *Client) RestartVM(ctx context.Context, ref string, s StopVM, progress func(Progress)) (VM, error) {
	return stream[VM](ctx, c, vmPath(ref, "/restart"), s, progress)
}

// KillVM signals a VM's VMM and, for a signal that ends it, returns when it is gone.
func (c *Client) KillVM(ctx context.Context, ref string, k KillVM) (VM, error) {
	return call[VM](ctx, c, http.MethodPost, vmPath(ref, "/kill"), k)
}

// RemoveVM deletes a VM and its disk. With force a VM that is not stopped is killed first.
func (c *Client) RemoveVM(ctx context.Context, ref string, force bool) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, vmPath(ref, "")+"?force="+strconv.FormatBool(force), nil)
	return err
}

// LeaseVM ties a VM to this client: when ctx ends or this process dies, the daemon removes the VM. It returns when the
// lease is held; the lease's own end is not awaited.
func (c *Client) LeaseVM(ctx context.Context, ref string) error {
	response, err := c.send(ctx, http.MethodPost, vmPath(ref, "/lease"), nil)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { response.Body.Close() })
	return nil
}

// WaitVM returns when the VM meets the condition.
func (c *Client) WaitVM(ctx context.Context, ref string, condition WaitFor) (VM, error) {
	return call[VM](ctx, c, http.MethodGet, vmPath(ref, "/wait")+"?for="+url.QueryEscape(string(condition)), nil)
}

// SetNAT opens or closes a VM's way to the world beyond the other VMs, at once.
func (c *Client) SetNAT(ctx context.Context, ref string, on bool) (VM, error) {
	return call[VM](ctx, c, http.MethodPut, vmPath(ref, "/nat"), SetNAT{On: on})
}

// AddForward makes a port of a VM reachable at an address of the host, at once when it runs, and returns it with the port
// that was chosen.
func (c *Client) AddForward(ctx context.Context, ref string, f Forward) (Forward, error) {
	return call[Forward](ctx, c, http.MethodPost, vmPath(ref, "/forwards"), f)
}

// RemoveForward ends a forward, which its protocol, host and host port name, and its connections.
func (c *Client) RemoveForward(ctx context.Context, ref string, f Forward) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, vmPath(ref, "/forwards"), f)
	return err
}

// Ports lists what listens in a running VM, and where the host reaches it.
func (c *Client) Ports(ctx context.Context, ref string) ([]Port, error) {
	return call[[]Port](ctx, c, http.MethodGet, vmPath(ref, "/ports"), nil)
}

// SetHostServices gives a VM the host's services that it may reach at the gateway's address, at once.
func (c *Client) SetHostServices(ctx context.Context, ref string, ports []int) (VM, error) {
	return call[VM](ctx, c, http.MethodPut, vmPath(ref, "/host-services"), SetHostServices{Ports: ports})
}

// PrepareSSH makes a running VM ready for an ssh connection. It fails when the VM shows another host key than it is
// known by.
func (c *Client) PrepareSSH(ctx context.Context, ref string, p PrepareSSH) (SSH, error) {
	return call[SSH](ctx, c, http.MethodPost, vmPath(ref, "/ssh"), p)
}

// StatsVM asks a running VM what it uses.
func (c *Client) StatsVM(ctx context.Context, ref string) (Stats, error) {
	return call[Stats](ctx, c, http.MethodGet, vmPath(ref, "/stats"), nil)
}

// Logs returns the console of a VM's last start; with follow the reader goes on until the VM stops.
func (c *Client) Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error) {
	response, err := c.send(ctx, http.MethodGet, vmPath(ref, "/logs")+"?follow="+strconv.FormatBool(follow), nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// ReadFiles returns path of the VM as a tar stream. A stream that was cut ends with an error, not with io.EOF.
func (c *Client) ReadFiles(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	response, err := c.send(ctx, http.MethodGet, vmPath(ref, "/files")+"?path="+url.QueryEscape(path), nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// WriteFiles unpacks a tar stream at path of the VM.
func (c *Client) WriteFiles(ctx context.Context, ref, path string, tar io.Reader) error {
	response, err := c.send(ctx, http.MethodPut, vmPath(ref, "/files")+"?path="+url.QueryEscape(path), tar)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// Exec starts a command in a running VM. The caller reads frames until FrameExit and closes the connection; closing
// it earlier kills the command.
func (c *Client) Exec(ctx context.Context, ref string, e Exec) (*FrameConn, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://banger"+vmPath(ref, "/exec"), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", ExecUpgrade)
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := bufio.NewReaderSize(conn, MaxFramePayload)
	response, err := upgrade(conn, r, request) //nolint:bodyclose // the connection is the body
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // the connection was closed for that
		}
		conn.Close()
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, errors.Join(readError(response), conn.Close())
	}
	return NewFrameConn(conn, r), nil
}

// upgrade sends the request and reads the answer's head.
func upgrade(conn net.Conn, r *bufio.Reader, request *http.Request) (*http.Response, error) {
	if err := request.Write(conn); err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	response, err := http.ReadResponse(r, request)
	if err != nil {
		return nil, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return response, nil
}

// Images returns all images by name, those without one last.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	return call[[]Image](ctx, c, http.MethodGet, "/v1/images", nil)
}

// Image returns one image, by name or by a unique prefix of its id.
func (c *Client) Image(ctx context.Context, ref string) (Image, error) {
	return call[Image](ctx, c, http.MethodGet, imagePath(ref, ""), nil)
}

// RemoveImage takes a name from an image, and with the last one deletes it; an id deletes it with all its names. One that
// VMs use is a conflict.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, imagePath(ref, ""), nil)
	return err
}

// TagImage gives an image one more name, which moves to it from another one.
func (c *Client) TagImage(ctx context.Context, ref string, t TagImage) (Image, error) {
	return call[Image](ctx, c, http.MethodPost, imagePath(ref, "/tags"), t)
}

// PruneImages deletes the images that have neither a name nor a VM; with dryRun it only says which.
func (c *Client) PruneImages(ctx context.Context, dryRun bool) (Pruned, error) {
	return call[Pruned](ctx, c, http.MethodPost, "/v1/images/prune?dry_run="+strconv.FormatBool(dryRun), nil)
}

// RegisterImage makes an image of a filesystem that stays where it is.
func (c *Client) RegisterImage(ctx context.Context, i RegisterImage, progress func(Progress)) (Image, error) {
	return stream[Image](ctx, c, "/v1/images/register", i, progress)
}

// PromoteImage copies a registered image into the store; it keeps its id.
func (c *Client) PromoteImage(ctx context.Context, ref string, progress func(Progress)) (Image, error) {
	return stream[Image](ctx, c, imagePath(ref, "/promote"), nil, progress)
}

// SaveImage returns the image, with the kernel that it names, as an archive. One that was cut ends with an error, not with
// io.EOF.
func (c *Client) SaveImage(ctx context.Context, ref string) (io.ReadCloser, error) {
	response, err := c.send(ctx, http.MethodGet, imagePath(ref, "/archive"), nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// LoadImage makes the image of an archive, under name or, when that is empty, under the archive's own.
func (c *Client) LoadImage(ctx context.Context, archive io.Reader, name string, progress func(Progress)) (Image, error) {
	return stream[Image](ctx, c, "/v1/images/load?name="+url.QueryEscape(name), archive, progress)
}

func imagePath(ref, verb string) string { return "/v1/images/" + url.PathEscape(ref) + verb }

// Kernels returns all kernel bundles by name.
func (c *Client) Kernels(ctx context.Context) ([]Kernel, error) {
	return call[[]Kernel](ctx, c, http.MethodGet, "/v1/kernels", nil)
}

// Kernel returns one kernel bundle, by name or by a unique prefix of its id.
func (c *Client) Kernel(ctx context.Context, ref string) (Kernel, error) {
	return call[Kernel](ctx, c, http.MethodGet, "/v1/kernels/"+url.PathEscape(ref), nil)
}

// PullImage makes an image from a registry, a file or a distribution's archive.
func (c *Client) PullImage(ctx context.Context, p PullImage, progress func(Progress)) (Image, error) {
	return stream[Image](ctx, c, "/v1/images/pull", p, progress)
}

// PullKernel fetches a kernel bundle; one that is there already is kept and returned.
func (c *Client) PullKernel(ctx context.Context, p PullKernel, progress func(Progress)) (Kernel, error) {
	return stream[Kernel](ctx, c, "/v1/kernels", p, progress)
}

// ImportKernel makes a kernel bundle of files of the daemon's host.
func (c *Client) ImportKernel(ctx context.Context, k ImportKernel, progress func(Progress)) (Kernel, error) {
	return stream[Kernel](ctx, c, "/v1/kernels/import", k, progress)
}

// PruneKernels deletes the kernels that have neither a name nor a VM nor an image; with dryRun it only says which.
func (c *Client) PruneKernels(ctx context.Context, dryRun bool) (Pruned, error) {
	return call[Pruned](ctx, c, http.MethodPost, "/v1/kernels/prune?dry_run="+strconv.FormatBool(dryRun), nil)
}

// RemoveKernel takes a name from a kernel bundle, and with the last one deletes it; an id deletes it with all its names.
// One that VMs or images use is a conflict.
func (c *Client) RemoveKernel(ctx context.Context, ref string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/kernels/"+url.PathEscape(ref), nil)
	return err
}

func vmPath(ref, verb string) string { return "/v1/vms/" + url.PathEscape(ref) + verb }

// send makes one request. The body is an io.Reader, sent as it is, or any other value, sent as JSON, or nil. The
// caller closes the answer's body; an answer that is not a success is an error.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	reader, raw := body.(io.Reader)
	if body != nil && !raw {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://banger"+path, reader)
	if err != nil {
		return nil, err
	}
	if body != nil && !raw {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, unwrapURL(err)
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		return nil, readError(response)
	}
	return response, nil
}

// unwrapURL drops the made-up URL that net/http puts in front of an error.
func unwrapURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("reach daemon: %w", u.Err)
	}
	return err
}

func readError(response *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	if err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	var e Error
	if json.Unmarshal(data, &e) != nil || e.Code == "" {
		return Errorf(CodeInternal, "daemon answered %s: %s", response.Status, strings.TrimSpace(string(data)))
	}
	return &e
}

// call makes one request and decodes its JSON answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var answer T
	response, err := c.send(ctx, method, path, body)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return answer, nil
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return answer, nil
}

// stream makes one request that answers with Events, gives progress to the callback (which may be nil) and returns
// the result.
func stream[T any](ctx context.Context, c *Client, path string, body any, progress func(Progress)) (T, error) {
	return streamLog[T](ctx, c, path, body, progress, nil)
}

// streamLog is stream for a request that also has a log to tell, in whole lines.
func streamLog[T any](ctx context.Context, c *Client, path string, body any, progress func(Progress), log func(lines string)) (T, error) {
	var none T
	response, err := c.send(ctx, http.MethodPost, path, body)
	if err != nil {
		return none, err
	}
	defer response.Body.Close()
	events := json.NewDecoder(response.Body)
	for {
		var event Event[T]
		if err := events.Decode(&event); err != nil {
			if ctx.Err() != nil {
				return none, ctx.Err()
			}
			return none, fmt.Errorf("read the daemon's answer: %w", err)
		}
		switch {
		case event.Error != nil:
			return none, event.Error
		case event.Result != nil:
			return *event.Result, nil
		case event.Progress != nil && progress != nil:
			progress(*event.Progress)
		case event.Log != "" && log != nil:
			log(event.Log)
		}
	}
}
