package fcqemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConns is how many API connections there may be at once; more are told 503.
const maxConns = 10

// defaultMaxBody is the default of --http-api-max-payload-size.
const defaultMaxBody = 51200

// listenAPI binds the API's socket.
func listenAPI(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path) //nolint:noctx // binding a unix socket does not block
	if err != nil {
		return nil, fmt.Errorf("Failed to open the API socket at: %s. Check that it is not already used. (%s)", path, osError(err))
	}
	// The file stays when the process ends, as Firecracker leaves it.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return &limitedListener{Listener: l, free: make(chan struct{}, maxConns)}, nil
}

// serveAPI serves until ctx ends.
func (v *vmm) serveAPI(ctx context.Context, l net.Listener, maxBody int64) error {
	server := &http.Server{
		Handler:           v.handlerFor(maxBody),
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() {
		// A request in flight, such as the one whose action ended the guest, is answered.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve API: %w", err)
	}
	return nil
}

func (v *vmm) handlerFor(maxBody int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "Firecracker API")
		w.Header().Set("Content-Type", "application/json")
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			err = fmt.Errorf("Request payload with size %d is larger than the limit of %d allowed by server.", r.ContentLength, maxBody)
			v.answer(w, response{}, err)
			return
		}
		if r.Method == http.MethodGet || len(body) == 0 {
			v.log.Info(fmt.Sprintf("The API server received a %s request on %q.", r.Method, r.URL.Path))
		} else {
			v.log.Info(fmt.Sprintf("The API server received a %s request on %q with body %q.", r.Method, r.URL.Path, body))
		}
		result, err := v.request(r.Method, r.URL.Path, body)
		v.answer(w, result, err)
	}
}

func (v *vmm) answer(w http.ResponseWriter, r response, err error) {
	if r.deprecated != "" {
		w.Header().Set("Deprecation", "true")
		v.metrics.add("deprecated_api deprecated_http_api_calls", 1)
		v.log.Warn(r.deprecated)
	}
	status, body := http.StatusNoContent, r.body
	switch {
	case err != nil:
		v.log.Error(fmt.Sprintf("Received Error. Status code: 400 Bad Request. Message: %v", err))
		status, body = http.StatusBadRequest, map[string]string{"fault_message": err.Error()}
	case body != nil:
		v.log.Info("The request was executed successfully. Status code: 200 OK.")
		status = http.StatusOK
	default:
		v.log.Info("The request was executed successfully. Status code: 204 No Content.")
		w.Header().Del("Content-Type")
	}
	w.WriteHeader(status)
	if body != nil {
		// The client may have gone; there is nobody else to tell.
		_ = json.NewEncoder(w).Encode(body)
	}
}

// limitedListener turns away connections beyond those that are free.
type limitedListener struct {
	net.Listener
	free chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.free <- struct{}{}:
			return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { <-l.free })}, nil
		default:
			const full = "HTTP/1.1 503 \r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }"
			conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(conn, full) // a client that does not read is turned away all the same
			conn.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
