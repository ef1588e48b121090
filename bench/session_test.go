package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// echoDaemon serves the API's exec with a command that sends its input back, and ends with exit.
func echoDaemon(t *testing.T, exit string) *home {
	t.Helper()
	h := &home{dir: t.TempDir()}
	listener, err := net.Listen("unix", filepath.Clean(h.folder().Socket()))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // else it would be read as frames
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + api.ExecUpgrade + "\r\n\r\n"))
		frames := api.NewFrameConn(conn, buffered.Reader)
		for {
			frame, err := frames.Read()
			if err != nil {
				return
			}
			if frame.Type == api.FrameStdinClose {
				frames.Write(api.FrameExit, []byte(exit))
				return
			}
			frames.Write(api.FrameStdout, frame.Payload)
			frames.Write(api.FrameStdinAck, nil)
		}
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	h.client = api.NewClient(h.folder().Socket())
	return h
}

func TestRunIn(t *testing.T) {
	h := echoDaemon(t, `{"code":0}`)
	want := strings.Repeat("input ", 200_000) // more than the window
	var got bytes.Buffer
	if err := h.runIn(t.Context(), "vm", strings.NewReader(want), &got, "cat"); err != nil {
		t.Fatal(err)
	}
	if got.String() != want {
		t.Errorf("%d bytes came back, want %d", got.Len(), len(want))
	}
}

func TestRunInCommandFails(t *testing.T) {
	h := echoDaemon(t, `{"code":3}`)
	err := h.runIn(t.Context(), "vm", strings.NewReader(""), &bytes.Buffer{}, "false")
	if err == nil || !strings.Contains(err.Error(), `{"code":3}`) {
		t.Errorf("the error is %v", err)
	}
}
