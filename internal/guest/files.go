package guest

import (
	"context"
	"errors"
	"io"

	agentv1 "banger/proto/agent/v1"
)

// ReadTar writes a file or folder of the guest to w as a tar stream, see package tarcopy for its
// shape. When it fails, w holds the beginning of a stream.
func (c *Client) ReadTar(ctx context.Context, path string, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.agent.ReadFiles(ctx, &agentv1.ReadFilesRequest{Path: path})
	if err != nil {
		return fromAgent(ctx, "read "+path, err)
	}
	defer stream.Close()
	for stream.Receive() {
		if _, err := w.Write(stream.Msg().Data); err != nil {
			return err
		}
	}
	return fromAgent(ctx, "read "+path, stream.Err())
}

// WriteTar unpacks a tar stream in the guest: below path when that is a folder, else as path
// itself, see package tarcopy. When it fails, what came before is unpacked.
func (c *Client) WriteTar(ctx context.Context, path string, r io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.agent.WriteFiles(ctx)
	if err != nil {
		return fromAgent(ctx, "write "+path, err)
	}
	err = stream.Send(&agentv1.WriteFilesRequest{Path: path})
	buf := make([]byte, agentv1.MaxChunkBytes)
	for err == nil {
		n, readErr := io.ReadFull(r, buf)
		if n > 0 {
			err = stream.Send(&agentv1.WriteFilesRequest{Data: buf[:n]})
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			break
		}
		if readErr != nil {
			return readErr // the cancelled stream is an error at the other end too
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fromAgent(ctx, "write "+path, err)
	}
	_, err = stream.CloseAndReceive() // the answer, also when the agent refused before the end
	return fromAgent(ctx, "write "+path, err)
}
