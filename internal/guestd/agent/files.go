package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"connectrpc.com/connect"

	"banger/internal/guest/tarcopy"
	agentv1 "banger/proto/agent/v1"
)

// ReadFiles sends a file or folder as tar.
func (s *Server) ReadFiles(
	ctx context.Context, r *agentv1.ReadFilesRequest, stream *connect.ServerStream[agentv1.ReadFilesResponse],
) error {
	path, err := guestPath(r.Path)
	if err != nil {
		return err
	}
	w := &chunkWriter{ctx: ctx, send: func(b []byte) error { return stream.Send(&agentv1.ReadFilesResponse{Data: b}) }}
	if err := tarcopy.Pack(w, path); err != nil {
		return fileError(err)
	}
	return w.flush()
}

// WriteFiles unpacks a tar stream.
func (s *Server) WriteFiles(
	_ context.Context, stream *connect.ClientStream[agentv1.WriteFilesRequest],
) (*agentv1.WriteFilesResponse, error) {
	if !stream.Receive() {
		none := connect.NewError(connect.CodeInvalidArgument, errors.New("write files: no request"))
		return nil, errors.Join(stream.Err(), none)
	}
	path, err := guestPath(stream.Msg().Path)
	if err != nil {
		return nil, err
	}
	r := &chunkReader{rest: stream.Msg().Data, receive: func() ([]byte, error) {
		if !stream.Receive() {
			if err := stream.Err(); err != nil {
				return nil, err
			}
			return nil, io.EOF
		}
		return stream.Msg().Data, nil
	}}
	if err := tarcopy.Unpack(r, path); err != nil {
		return nil, fileError(err)
	}
	return &agentv1.WriteFilesResponse{}, nil
}

// guestPath gives the path as the guest's root has it: a relative one is below /.
func guestPath(path string) (string, error) {
	if path == "" || len(path) > agentv1.MaxPathBytes || strings.IndexByte(path, 0) >= 0 {
		err := fmt.Errorf("path of 1 to %d bytes expected", agentv1.MaxPathBytes)
		return "", connect.NewError(connect.CodeInvalidArgument, err)
	}
	return "/" + strings.TrimLeft(path, "/"), nil
}

func fileError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return connect.NewError(connect.CodeNotFound, err)
	case errors.Is(err, tarcopy.ErrUnsafe):
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return err
}

// chunkWriter gathers what tar writes in small pieces.
type chunkWriter struct {
	ctx  context.Context
	buf  []byte
	send func([]byte) error
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	if w.buf == nil {
		w.buf = make([]byte, 0, agentv1.MaxChunkBytes)
	}
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), cap(w.buf)-len(w.buf))
		w.buf, p = append(w.buf, p[:n]...), p[n:]
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return total, w.ctx.Err()
}

func (w *chunkWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.send(w.buf)
	w.buf = w.buf[:0]
	return err
}

// chunkReader is an io.Reader of a stream's messages.
type chunkReader struct {
	rest    []byte
	receive func() ([]byte, error)
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		var err error
		if r.rest, err = r.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
