package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"banger/internal/guest/tarcopy"
	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

func TestGuestPath(t *testing.T) {
	for path, want := range map[string]string{
		"/etc/hosts": "/etc/hosts", "etc/hosts": "/etc/hosts", "//etc": "/etc", "/": "/", "/a/.": "/a/.",
		"/" + strings.Repeat("a", agentv1.MaxPathBytes-1): "/" + strings.Repeat("a", agentv1.MaxPathBytes-1),
	} {
		if got, err := guestPath(path); got != want || err != nil {
			t.Errorf("%.40q: got %.40q, %v, want %.40q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "/a\x00b", "/" + strings.Repeat("a", agentv1.MaxPathBytes)} {
		if got, err := guestPath(path); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%.40q: got %.40q, %v, want it refused", path, got, err)
		}
	}
}

func TestFileError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want connect.Code
	}{
		{&fs.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist}, connect.CodeNotFound},
		{tarcopy.ErrUnsafe, connect.CodeInvalidArgument},
		{io.ErrUnexpectedEOF, connect.CodeUnknown},
	} {
		if got := connect.CodeOf(fileError(tt.err)); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
}

// Whatever sizes tar writes, whole chunks go out, and the last one may be smaller.
func TestChunkWriter(t *testing.T) {
	const chunk = agentv1.MaxChunkBytes
	for _, sizes := range [][]int{{}, {1}, {chunk}, {chunk - 1, 1, 1}, {3*chunk + 5}, {512, chunk, 512, chunk}} {
		var want, got []byte
		var sent []int
		w := &chunkWriter{ctx: t.Context(), send: func(b []byte) error {
			got, sent = append(got, b...), append(sent, len(b))
			return nil
		}}
		for i, size := range sizes {
			part := bytes.Repeat([]byte{byte('a' + i)}, size)
			want = append(want, part...)
			if n, err := w.Write(part); n != size || err != nil {
				t.Fatalf("%v: wrote %d of %d, %v", sizes, n, size, err)
			}
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%v: got %d bytes, want %d, or others", sizes, len(got), len(want))
		}
		for i, size := range sent {
			if size == 0 || size > chunk || size < chunk && i < len(sent)-1 {
				t.Errorf("%v: sent chunks of %v", sizes, sent)
			}
		}
	}
}

func TestChunkWriterErrors(t *testing.T) {
	gone := errors.New("the host has gone")
	w := &chunkWriter{ctx: t.Context(), send: func([]byte) error { return gone }}
	if _, err := w.Write(make([]byte, agentv1.MaxChunkBytes+1)); !errors.Is(err, gone) {
		t.Errorf("a host that has gone: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w = &chunkWriter{ctx: ctx}
	if _, err := w.Write([]byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that has ended: %v", err)
	}
}

// Empty messages are no end, and an error comes after all that was before it.
func TestChunkReader(t *testing.T) {
	broken := errors.New("broken")
	messages := [][]byte{{}, []byte("bc"), {}, {}, []byte("d")}
	r := &chunkReader{rest: []byte("a"), receive: func() ([]byte, error) {
		if len(messages) == 0 {
			return nil, broken
		}
		next := messages[0]
		messages = messages[1:]
		return next, nil
	}}
	got, err := io.ReadAll(r)
	if string(got) != "abcd" || !errors.Is(err, broken) {
		t.Errorf("got %q, %v, want abcd and then the error", got, err)
	}
}

// tarOf is an archive of one file.
func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(header); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// writeFiles sends requests and gives the answer's error.
func writeFiles(t *testing.T, agent agentv1connect.AgentClient, requests ...*agentv1.WriteFilesRequest) error {
	t.Helper()
	stream, err := agent.WriteFiles(t.Context())
	if err != nil {
		return err
	}
	for _, r := range requests {
		if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	_, err = stream.CloseAndReceive()
	return err
}

func TestWriteFiles(t *testing.T) {
	_, agent := serveAgent(t, "/")
	dir := t.TempDir()
	archive := tarOf(t, "file", "content")
	tests := []struct {
		name     string
		requests []*agentv1.WriteFilesRequest
		code     connect.Code // 0 for success
		want     string       // the error, or the file written
	}{
		{"Whole", []*agentv1.WriteFilesRequest{{Path: dir + "/whole", Data: archive}}, 0, "whole"},
		{
			"InPieces",
			[]*agentv1.WriteFilesRequest{{Path: dir + "/pieces"}, {Data: archive[:7]}, {}, {Data: archive[7:]}},
			0, "pieces",
		},
		{
			"OtherPathLater",
			[]*agentv1.WriteFilesRequest{
				{Path: dir + "/first", Data: archive[:600]},
				{Path: dir + "/later", Data: archive[600:]},
			},
			0, "first",
		},
		{"ErrNothing", nil, connect.CodeInvalidArgument, "write files: no request"},
		{
			"ErrNoPath",
			[]*agentv1.WriteFilesRequest{{Data: archive}},
			connect.CodeInvalidArgument,
			"path of 1 to 4096 bytes expected",
		},
		{
			"ErrNoFolder",
			[]*agentv1.WriteFilesRequest{{Path: dir + "/no/such", Data: archive}},
			connect.CodeNotFound,
			"no such file",
		},
		{
			"ErrCutShort",
			[]*agentv1.WriteFilesRequest{{Path: dir + "/short", Data: archive[:515]}},
			connect.CodeUnknown,
			"unexpected EOF",
		},
		{
			"ErrNoTar",
			[]*agentv1.WriteFilesRequest{{Path: dir + "/x", Data: bytes.Repeat([]byte("x"), 1024)}},
			connect.CodeUnknown, "invalid tar header",
		},
		{
			"ErrUnsafe",
			[]*agentv1.WriteFilesRequest{{Path: dir, Data: append(tarOf(t, "d/file", "x")[:1024], tarOf(t, "../out", "x")...)}},
			connect.CodeInvalidArgument, "leads out of the destination",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := writeFiles(t, agent, tt.requests...)
			if tt.code != 0 {
				checkCode(t, "write files", err, tt.code, tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, tt.want)); string(got) != "content" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	names, _ := filepath.Glob(dir + "/*")
	for _, name := range names {
		if strings.HasSuffix(name, "later") || strings.HasSuffix(name, "out") {
			t.Errorf("written as well: %s", name)
		}
	}
}

func TestReadFiles(t *testing.T) {
	_, agent := serveAgent(t, "/")
	dir := t.TempDir()
	large := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	if err := errors.Join(os.Mkdir(dir+"/folder", 0o755), os.WriteFile(dir+"/folder/large", large, 0o600)); err != nil {
		t.Fatal(err)
	}
	stream, err := agent.ReadFiles(t.Context(), &agentv1.ReadFilesRequest{Path: dir + "/folder"})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	for stream.Receive() {
		if n := len(stream.Msg().Data); n == 0 || n > agentv1.MaxChunkBytes {
			t.Errorf("a message of %d bytes", n)
		}
		archive.Write(stream.Msg().Data)
	}
	if err := errors.Join(stream.Err(), stream.Close()); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	r := tar.NewReader(&archive)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil || header.Name == "folder/large" && !bytes.Equal(content, large) {
			t.Errorf("%s: %v, or other content", header.Name, err)
		}
		got[header.Name] = len(content)
	}
	if diff := cmp.Diff(map[string]int{"folder/": 0, "folder/large": len(large)}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for path, code := range map[string]connect.Code{"": connect.CodeInvalidArgument, dir + "/none": connect.CodeNotFound} {
		stream, err := agent.ReadFiles(t.Context(), &agentv1.ReadFilesRequest{Path: path})
		if err == nil {
			for stream.Receive() {
				t.Errorf("%q: got data", path)
			}
			err = stream.Err()
			stream.Close()
		}
		if connect.CodeOf(err) != code {
			t.Errorf("%q: got %v, want %v", path, err, code)
		}
	}
}
