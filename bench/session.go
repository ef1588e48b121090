package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"banger/api"
)

// runIn runs a command in a VM by the API, with in as its input unless that is nil. The command
// must end with 0.
func (h *home) runIn(ctx context.Context, vm string, in io.Reader, out io.Writer, argv ...string) error {
	conn, err := h.client.Exec(ctx, api.Exec{Machine: vm, Argv: argv, Stdin: in != nil})
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	credits := make(chan struct{}, api.StdinWindow)
	if in != nil {
		fed := make(chan error, 1)
		go func() { fed <- feed(ctx, conn, in, credits) }()
		defer func() { // feed ends with the connection, or without credits with ctx
			conn.Close()
			<-fed //nolint:errcheck // the stream that broke tells why
		}()
	}
	return readFrames(conn, out, credits)
}

// feed sends in, a frame for each credit.
func feed(ctx context.Context, conn *api.FrameConn, in io.Reader, credits chan struct{}) error {
	for range cap(credits) {
		credits <- struct{}{}
	}
	buffer := make([]byte, api.MaxFramePayload)
	for {
		select {
		case <-credits:
		case <-ctx.Done():
			return ctx.Err()
		}
		n, err := io.ReadFull(in, buffer)
		if n > 0 {
			if err := conn.Write(api.FrameStdin, buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return conn.Write(api.FrameStdinClose, nil)
		}
		if err != nil {
			return err
		}
	}
}

// readFrames hands out output and credits until the command ends.
func readFrames(conn *api.FrameConn, out io.Writer, credits chan<- struct{}) error {
	for {
		frame, err := conn.Read()
		if err != nil {
			return fmt.Errorf("read the command's output: %w", err)
		}
		switch frame.Type {
		case api.FrameStdout, api.FrameStderr:
			if _, err := out.Write(frame.Payload); err != nil {
				return err
			}
		case api.FrameStdinAck:
			credits <- struct{}{} // there is room: each frame took one out
		case api.FrameExit:
			var exit api.ExecExit
			if err := json.Unmarshal(frame.Payload, &exit); err != nil {
				return fmt.Errorf("read the command's end: %w", err)
			}
			if exit.Code != 0 || exit.Error != nil {
				return fmt.Errorf("the command ended with %s", frame.Payload)
			}
			return nil
		}
	}
}
