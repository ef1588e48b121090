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
	"strings"
	"syscall"
)

// maxErrorBytes bounds the body of a failed answer.
const maxErrorBytes = 1 << 20

// Client speaks to one daemon over its unix socket. It is safe for concurrent use. Every request
// returns an *Error when the daemon refused, and another error when the daemon could not be reached
// or broke off.
type Client struct {
	// Before, when it is not nil, is called before each request. Its error ends the request.
	Before func(context.Context, Spec) error

	socket string
	http   *http.Client
}

// NewClient returns a client for the daemon that listens on socket. It dials when it is first used.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		// Commands on many machines at once each keep a connection for as long as they run.
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

// Call asks for a KindUnary.
func Call[In, Out any](ctx context.Context, c *Client, op Op[In, Out], in In) (Out, error) {
	return untilTaken(c, func() (Out, error) {
		return answer[Out](c.send(ctx, op.Spec, in, nil)) //nolint:bodyclose // answer closes it
	})
}

// Stream asks for a KindProgress. It gives progress, and a log in whole lines, to the callbacks,
// which may be nil.
func Stream[In, Out any](
	ctx context.Context, c *Client, op Op[In, Out], in In, progress func(Progress), log func(lines string),
) (Out, error) {
	return untilTaken(c, func() (Out, error) {
		response, err := c.send(ctx, op.Spec, in, nil) //nolint:bodyclose // events closes it
		return events[Out](ctx, response, err, progress, log)
	})
}

// Download asks for a KindDownload. A stream that was cut ends with an error, not with io.EOF. The
// caller closes it.
func Download[In any](ctx context.Context, c *Client, op Op[In, None], in In) (io.ReadCloser, error) {
	response, err := c.send(ctx, op.Spec, in, nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// Upload asks for a KindUpload of what r gives.
func Upload[In, Out any](ctx context.Context, c *Client, op Op[In, Out], in In, r io.Reader) (Out, error) {
	return answer[Out](c.send(ctx, op.Spec, in, r)) //nolint:bodyclose // as above
}

// UploadStream asks for a KindUploadProgress of what r gives.
func UploadStream[In, Out any](
	ctx context.Context, c *Client, op Op[In, Out], in In, r io.Reader, progress func(Progress),
) (Out, error) {
	response, err := c.send(ctx, op.Spec, in, r) //nolint:bodyclose // as above
	return events[Out](ctx, response, err, progress, nil)
}

// Hold asks for a KindHold. It returns when the operation holds, which it does until ctx ends or
// this process dies.
func Hold[In any](ctx context.Context, c *Client, op Op[In, None], in In) error {
	response, err := c.send(ctx, op.Spec, in, nil)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { response.Body.Close() })
	return nil
}

// Connect asks for a KindUpgrade. The caller reads frames until FrameExit and closes the
// connection; closing it earlier, or the end of ctx before this returns, ends the operation.
func Connect[In any](ctx context.Context, c *Client, op Op[In, None], in In) (*FrameConn, error) {
	request, err := c.request(ctx, op.Spec, in, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", ExecUpgrade)
	conn, err := c.dial(ctx)
	if c.Before != nil && nobodyListened(err) { // as in send
		if err := c.Before(ctx, op.Spec); err != nil {
			return nil, err
		}
		conn, err = c.dial(ctx)
	}
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

// request makes the request of an operation; content, when it is not nil, is its body in place of
// the input's.
func (c *Client) request(ctx context.Context, spec Spec, in any, content io.Reader) (*http.Request, error) {
	if c.Before != nil {
		if err := c.Before(ctx, spec); err != nil {
			return nil, err
		}
	}
	method, target, body, err := encodeInput(spec, in)
	if err != nil {
		return nil, err
	}
	media := spec.Media
	if content == nil && body != nil {
		content, media = bytes.NewReader(body), "application/json"
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://banger"+target, content)
	if err == nil && content != nil {
		request.Header.Set("Content-Type", media)
	}
	return request, err
}

// send makes one request. The caller closes the answer's body; an answer that is not a success is
// an error.
func (c *Client) send(ctx context.Context, spec Spec, in any, content io.Reader) (*http.Response, error) {
	request, err := c.request(ctx, spec, in, content)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	// Whom Before found has just made way for another one: nothing was sent, or what was read
	// changes nothing.
	if c.Before != nil && content == nil && (nobodyListened(err) || spec.Right == RightRead && brokeOff(err)) {
		if request, err = c.request(ctx, spec, in, nil); err != nil {
			return nil, err
		}
		response, err = c.http.Do(request)
	}
	if err != nil {
		return nil, unwrapURL(err)
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		return nil, readError(response)
	}
	return response, nil
}

// maxReplaced bounds how often a request is made anew because a daemon that makes way has not taken
// it. Before each Before waits for the next one.
const maxReplaced = 10

// untilTaken does a request again that a daemon has refused because it makes way.
func untilTaken[T any](c *Client, do func() (T, error)) (T, error) {
	for range maxReplaced {
		value, err := do()
		if c.Before == nil || CodeOf(err) != CodeReplaced || err == nil {
			return value, err
		}
	}
	return do()
}

// nobodyListened reports whether a connection was not made, so that nothing was sent over it.
func nobodyListened(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// brokeOff reports whether a connection ended before an answer came. A server that is being shut
// down drops the requests that it has not read yet.
func brokeOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
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

// answer decodes one JSON answer; it takes what send returned.
func answer[T any](response *http.Response, err error) (T, error) {
	var value T
	if err != nil {
		return value, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return value, nil
	}
	if err := json.NewDecoder(response.Body).Decode(&value); err != nil {
		return value, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return value, nil
}

// events reads a stream of Events to its result; it takes what send returned.
func events[T any](
	ctx context.Context, response *http.Response, err error, progress func(Progress), log func(lines string),
) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var event Event[T]
		if err := decoder.Decode(&event); err != nil {
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
