// Package unixhttp makes requests with JSON to a server on a unix socket: a VMM, or the network's
// keeper. It keeps no connection open, for calls are few and a VMM serves ten connections; and it
// bounds what it waits for and what it reads.
package unixhttp

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

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	http           *http.Client
	timeout        time.Duration
	maxAnswerBytes int64
}

// New returns a client of the server that listens on socket. Each call ends after timeout, and no
// answer may be longer than maxAnswerBytes. It dials at the first call.
func New(socket string, timeout time.Duration, maxAnswerBytes int64) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{
		http:    &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}},
		timeout: timeout, maxAnswerBytes: maxAnswerBytes,
	}
}

// StatusError is an answer other than 2xx.
type StatusError struct {
	Code int
	Body []byte // what the server says of it
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d %s", e.Code, http.StatusText(e.Code)) }

// Call makes one request with in as its body, unless that is nil, and decodes the answer into out,
// unless that is nil. What the server refuses is a *StatusError. The caller says in its errors what
// it asked whom for.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	request, err := newRequest(ctx, method, path, in)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // its URL is made up
		}
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, c.maxAnswerBytes+1))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if int64(len(data)) > c.maxAnswerBytes {
		return fmt.Errorf("read answer: more than %d bytes", c.maxAnswerBytes)
	}
	if response.StatusCode/100 != 2 {
		return &StatusError{response.StatusCode, data}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

func newRequest(ctx context.Context, method, path string, in any) (*http.Request, error) {
	if in == nil {
		return http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	return request, nil
}
