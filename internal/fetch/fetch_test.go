package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const content = "a file that comes in one piece or in two"

// testStall is longer than a busy machine takes for an answer.
const testStall = time.Second

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func longDigestOf(text string) string {
	sum := sha512.Sum512([]byte(text))
	return "sha512:" + hex.EncodeToString(sum[:])
}

// answer is what a server says to one request.
type answer func(w http.ResponseWriter, r *http.Request)

func whole(w http.ResponseWriter, r *http.Request) {
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
}

func text(body string) answer {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}

func status(code int) answer {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// part announces the whole body and sends its first 10 bytes.
func part(body string, then answer) answer {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		io.WriteString(w, body[:10])
		http.NewResponseController(w).Flush()
		then(w, r)
	}
}

func breakOff(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// hang says nothing until the client leaves.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// server answers one request after the other, the last for ever, and notes the range that each asks
// for.
func server(t *testing.T, answers ...answer) (url string, ranges func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Header.Get("Range"))
		now := answers[min(len(asked), len(answers))-1]
		mu.Unlock()
		now(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string { s.Close(); return asked }
}

func client(t *testing.T) Client {
	t.Helper()
	transport := NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	return Client{HTTP: &http.Client{Transport: transport}, Backoff: time.Millisecond}
}

func TestDownload(t *testing.T) {
	known := File{SizeBytes: int64(len(content)), Digest: digestOf(content)}
	unknown := File{SizeBytes: -1, MaxBytes: 100, Digest: longDigestOf(content)}
	const rest = "bytes=10-39"
	tests := []struct {
		name    string
		file    File
		answers []answer
		ranges  []string
		want    error
	}{
		{"OK", known, []answer{whole}, []string{""}, nil},
		{"UnknownSize", unknown, []answer{whole}, []string{""}, nil},
		{"NoDigest", File{SizeBytes: -1, MaxBytes: 100}, []answer{whole}, []string{""}, nil},
		{"GoesOn", known, []answer{part(content, breakOff), whole}, []string{"", rest}, nil},
		{"GoesOnUnknownSize", unknown, []answer{part(content, breakOff), whole}, []string{"", "bytes=10-"}, nil},
		{"GoesOnTwice", known, []answer{part(content, breakOff), status(502), whole}, []string{"", rest, rest}, nil},
		{"ShortGoesOn", known, []answer{text(content[:10]), whole}, []string{"", rest}, nil},
		{"NoRanges", known, []answer{part(content, breakOff), text(content)}, []string{"", rest}, nil},
		{"RangeRefused", known, []answer{part(content, breakOff), status(416), whole}, []string{"", rest, ""}, nil},
		{"ChangedInBetween", known, []answer{part(strings.Repeat("x", len(content)), breakOff), whole}, []string{"", rest, ""}, nil},
		{"Busy", known, []answer{status(429), status(503), status(408), whole}, []string{"", "", "", ""}, nil},
		{"Stall", known, []answer{part(content, hang), whole}, []string{"", rest}, nil},
		{"ErrStall", known, []answer{hang}, []string{"", "", "", ""}, ErrStalled},
		{"ErrBusy", known, []answer{status(429)}, []string{"", "", "", ""}, StatusError(429)},
		{"ErrBroken", known, []answer{breakOff}, []string{"", "", "", ""}, io.EOF},
		{"ErrGone", known, []answer{status(404)}, []string{""}, StatusError(404)},
		{"ErrShort", known, []answer{text(content[:10]), status(416)}, []string{"", rest, "", ""}, StatusError(416)},
		{"ErrContent", known, []answer{text(strings.Repeat("x", len(content)))}, []string{""}, ErrContent},
		{"ErrContentUnknownSize", unknown, []answer{text("other")}, []string{""}, ErrContent},
		{"ErrTooLarge", known, []answer{text(content + "x")}, []string{""}, ErrTooLarge},
		{"ErrTooLargeUnknownSize", unknown, []answer{text(strings.Repeat("x", 101))}, []string{""}, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			to, err := os.Create(filepath.Join(t.TempDir(), "file"))
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			var ranges func() []string
			tt.file.URL, ranges = server(t, tt.answers...)
			c := client(t)
			if strings.Contains(tt.name, "Stall") {
				c.Stall = testStall
			}
			err = c.Download(t.Context(), tt.file, to, nil)
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(tt.ranges, ranges()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if got, _ := os.ReadFile(to.Name()); tt.want == nil && string(got) != content {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestText(t *testing.T) {
	file := File{SizeBytes: -1, MaxBytes: int64(len(content)), Digest: digestOf(content)}
	tests := []struct {
		name     string
		answers  []answer
		requests int
		want     error
	}{
		{"OK", []answer{whole}, 1, nil},
		{"Again", []answer{part(content, breakOff), whole}, 2, nil},
		{"ErrContent", []answer{text("other")}, 1, ErrContent},
		{"ErrTooLarge", []answer{text(content + "x")}, 1, ErrTooLarge},
		{"ErrGone", []answer{status(410)}, 1, StatusError(410)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var ranges func() []string
			file.URL, ranges = server(t, tt.answers...)
			got, err := client(t).Text(t.Context(), file)
			if !errors.Is(err, tt.want) || tt.want == nil && (err != nil || string(got) != content) {
				t.Errorf("got %q, %v, want %v", got, err, tt.want)
			}
			if n := len(ranges()); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
		})
	}
}

func TestRetry(t *testing.T) {
	gone := errors.New("Ctrl-C")
	fault := errors.New("fault")
	tests := []struct {
		name  string
		err   error
		tries int
	}{
		{"Fault", fault, maxTries},
		{"Reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, maxTries},
		{"TemporaryName", &net.DNSError{Err: "server misbehaving", IsTemporary: true}, maxTries},
		{"Final", fmt.Errorf("wrapped: %w", Final(fault)), 1},
		{"Refused", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, 1},
		{"NoSuchName", &net.DNSError{Err: "no such host", IsNotFound: true}, 1},
		{"Disk", &os.PathError{Op: "write", Path: "file", Err: syscall.ENOSPC}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tries := 0
			err := client(t).Retry(t.Context(), "it", func(context.Context) error { tries++; return tt.err })
			if !errors.Is(err, tt.err) || tries != tt.tries {
				t.Errorf("error %v after %d tries, want %v after %d", err, tries, tt.err, tt.tries)
			}
		})
	}
	t.Run("Canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		c := client(t)
		c.Backoff = time.Hour
		err := c.Retry(ctx, "it", func(context.Context) error {
			time.AfterFunc(time.Millisecond, func() { cancel(gone) }) // perhaps within the pause, perhaps before
			return fault
		})
		if !errors.Is(err, gone) {
			t.Errorf("error %v, want %v", err, gone)
		}
	})
}

// A certificate that nobody has signed stays so.
func TestUnknownCertificate(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(whole))
	s.Config.ErrorLog = nil
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			asked.Add(1)
		}
	}
	s.StartTLS()
	defer s.Close()
	if _, err := client(t).Text(t.Context(), File{URL: s.URL, SizeBytes: -1, MaxBytes: 100}); err == nil || asked.Load() != 1 {
		t.Errorf("error %v after %d tries, want one", err, asked.Load())
	}
}
