package download

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const content = "the program"

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func integrityOf(text string) string {
	sum := sha512.Sum512([]byte(text))
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

func TestParse(t *testing.T) {
	sum := sha256Of(content)
	tests := []struct{ name, text, wantErr string }{
		{"URL", "https://h/f.tgz#sha256=" + sum, ""},
		{"Capitals", "http://h/f#sha256=" + strings.ToUpper(sum), ""},
		{"NPM", "npm:opencode-linux-x64@1.18.34", ""},
		{"NPMScope", "npm:@jdxcode/mise-linux-x64@2026.9.15#" + integrityOf(content), ""},
		{"NPMPrerelease", "npm:a@1.0.0-rc.1", ""},
		{"ErrEmpty", "", "neither"},
		{"ErrScheme", "file:///etc/passwd#sha256=" + sum, "neither"},
		{"ErrNoHash", "https://h/f", "#sha256="},
		{"ErrShortHash", "https://h/f#sha256=abcd", "#sha256="},
		{"ErrNoVersion", "npm:opencode", "exact version"},
		{"ErrRange", "npm:opencode@^1.0.0", "exact version"},
		{"ErrTag", "npm:opencode@latest", "exact version"},
		{"ErrPath", "npm:../x@1.0.0", "exact version"},
		{"ErrIntegrity", "npm:opencode@1.0.0#sha512-abc", "#sha512-"},
		{"ErrWeakIntegrity", "npm:opencode@1.0.0#sha1-abc", "#sha512-"},
		{"ErrLong", "https://h/" + strings.Repeat("x", 3000), "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Parse(tt.text)
			if tt.wantErr == "" && (err != nil || s.String() != tt.text) {
				t.Errorf("Parse = %q, %v", s, err)
			}
			if tt.wantErr != "" && (api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("npm:@jdxcode/mise-linux-x64@2026.9.15#" + integrityOf(content))
	f.Add("https://h/f#sha256=" + sha256Of(content))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err == nil && (s.url == "") == (s.pkg == "") {
			t.Errorf("%q is %+v", text, s)
		}
	})
}

// handler answers the nth request, counted from 1.
type handler func(w http.ResponseWriter, r *http.Request, n int)

// server is an npm registry and a file server; answer sees each request for the file.
func server(t *testing.T, answer handler) (s *httptest.Server, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	mux := http.NewServeMux()
	s = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { answer(w, r, int(requests.Add(1))) })
	mux.HandleFunc("/@scope%2Ftool/1.0.0", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"dist":{"tarball":"%s/file","integrity":"%s"}}`, s.URL, integrityOf(content))
	})
	mux.HandleFunc("/weak/1.0.0", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"dist":{"tarball":"%s/file","integrity":"sha1-x"}}`, s.URL)
	})
	return s, requests
}

func whole(w http.ResponseWriter, _ *http.Request, _ int) { io.WriteString(w, content) }

func thenWhole(first http.HandlerFunc) handler {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			first(w, r)
			return
		}
		whole(w, r, n)
	}
}

func always(f http.HandlerFunc) handler {
	return func(w http.ResponseWriter, r *http.Request, _ int) { f(w, r) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func evil(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "evil") }

func cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	io.WriteString(w, "the")
}

// stall sends a part, and the rest not before the client has left.
func stall(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "100")
	io.WriteString(w, "the")
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func TestFetch(t *testing.T) {
	url := "URL/file#sha256=" + sha256Of(content)
	tests := []struct {
		name, source string
		answer       handler
		requests     int
		wantErr      string
	}{
		{"OK", url, whole, 1, ""},
		{"NPM", "npm:@scope/tool@1.0.0", whole, 1, ""},
		{"NPMPinned", "npm:@scope/tool@1.0.0#" + integrityOf(content), whole, 1, ""},
		{"BusyThenOK", url, thenWhole(status(http.StatusTooManyRequests)), 2, ""},
		{"ErrGone", url, always(status(404)), 1, "404 Not Found"},
		{"ErrCut", url, always(cut), 4, "unexpected EOF"},
		{"ErrOtherContent", url, always(evil), 1, "wrong content: it has sha256"},
		{"ErrNPMOtherContent", "npm:@scope/tool@1.0.0", always(evil), 1, "wrong content: it has sha512"},
		{"ErrPin", "npm:@scope/tool@1.0.0#" + integrityOf("else"), whole, 0, "the registry's @scope/tool@1.0.0 has sha512"},
		{"ErrWeak", "npm:weak@1.0.0", whole, 0, "no tarball with a sha512"},
		{"ErrNoVersion", "npm:weak@2.0.0", whole, 0, "404 Not Found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, requests := server(t, tt.answer)
			c := &Cache{Dir: filepath.Join(t.TempDir(), "d"), Registry: s.URL + "/", Backoff: time.Millisecond}
			source, err := Parse(strings.Replace(tt.source, "URL", s.URL, 1))
			if err != nil {
				t.Fatal(err)
			}
			path, err := c.Fetch(t.Context(), source, "download")
			if n := int(requests.Load()); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
			if parts, _ := filepath.Glob(filepath.Join(c.Dir, ".new-*")); len(parts) != 0 {
				t.Errorf("left over: %v", parts)
			}
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if got, readErr := os.ReadFile(path); err != nil || readErr != nil || string(got) != content {
				t.Errorf("got %q, %v, %v", got, err, readErr)
			}
		})
	}
}

func TestFetchCached(t *testing.T) {
	s, requests := server(t, whole)
	c := &Cache{Dir: t.TempDir(), Registry: s.URL, Backoff: time.Millisecond}
	source, err := Parse("npm:@scope/tool@1.0.0#" + integrityOf(content))
	if err != nil {
		t.Fatal(err)
	}
	path, err := c.Fetch(t.Context(), source, "download")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("rotten"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(t.Context(), source, "download"); err != nil || requests.Load() != 2 {
		t.Errorf("a damaged file was not got again: %v, %d requests", err, requests.Load())
	}
	s.Close() // what is cached and pinned needs no net
	if again, err := c.Fetch(t.Context(), source, "download"); again != path || err != nil {
		t.Errorf("without a net: %q, %v", again, err)
	}
}

func TestFetchCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the user left")
	s, _ := server(t, func(w http.ResponseWriter, r *http.Request, _ int) { cancel(left); stall(w, r) })
	c := &Cache{Dir: t.TempDir(), Registry: s.URL}
	source, err := Parse(s.URL + "/file#sha256=" + sha256Of(content))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(ctx, source, "download"); !errors.Is(err, left) {
		t.Errorf("error %v, want %v", err, left)
	}
	if parts, _ := filepath.Glob(filepath.Join(c.Dir, ".new-*")); len(parts) != 0 {
		t.Errorf("left over: %v", parts)
	}
}

// TestDiskFull fetches into a real small tmpfs in a mount namespace of its own.
func TestDiskFull(t *testing.T) {
	dir := os.Getenv("DISK_FULL_DIR")
	if dir == "" {
		command := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
			`mount -t tmpfs -o size=100k none "$DISK_FULL_DIR" && exec "$0" -test.run=^TestDiskFull$`, os.Args[0])
		command.Env = append(os.Environ(), "DISK_FULL_DIR="+t.TempDir())
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("in the namespace: %v\n%s", err, out)
		}
		return
	}
	large := strings.Repeat("x", 200<<10)
	s, requests := server(t, func(w http.ResponseWriter, _ *http.Request, _ int) { io.WriteString(w, large) })
	source, err := Parse(s.URL + "/file#sha256=" + sha256Of(large))
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&Cache{Dir: dir}).Fetch(t.Context(), source, "download")
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeUnavailable || !strings.Contains(err.Error(), "disk full") || requests.Load() != 1 {
		t.Errorf("error %v after %d requests", err, requests.Load())
	}
	if parts, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(parts) != 0 {
		t.Errorf("left over: %v", parts)
	}
}

func TestSweep(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	for _, name := range []string{".new-1", "sha256-x"} {
		if err := os.WriteFile(filepath.Join(c.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(c.Dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "sha256-x" {
		t.Errorf("after the sweep: %v, %v", entries, err)
	}
	if err := (&Cache{Dir: filepath.Join(c.Dir, "none")}).Sweep(); err != nil {
		t.Errorf("without a folder: %v", err)
	}
}

// archiveOf makes a .tar.gz of files with that content each.
func archiveOf(t testing.TB, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for _, name := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}
		if link, ok := strings.CutSuffix(name, "->"); ok {
			h = &tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: "/etc/passwd"}
		}
		if err := archive.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(archive, content)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOpenProgram(t *testing.T) {
	tests := []struct {
		name    string
		file    []byte
		wantErr string
	}{
		{"Plain", []byte(content), ""},
		{"Top", archiveOf(t, "README", "tool"), ""},
		{"Bin", archiveOf(t, "bin/tool"), ""},
		{"NPM", archiveOf(t, "package/package.json", "package/bin/tool"), ""},
		{"Release", archiveOf(t, "./tool-1.0/tool"), ""},
		{"ErrDeep", archiveOf(t, "a/b/c/tool"), `no program "tool"`},
		{"ErrSymlink", archiveOf(t, "bin/tool->"), `no program "tool"`},
		{"ErrEmptyArchive", archiveOf(t), `no program "tool"`},
		{"ErrCut", archiveOf(t, "README", "tool")[:60], "unexpected EOF"},
		{"ErrNoArchive", []byte{0x1f, 0x8b, 'x'}, "unpack tool"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := OpenProgram(path, "tool")
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if got, err := io.ReadAll(p); string(got) != content || err != nil || p.SizeBytes != int64(len(content)) {
				t.Errorf("program %q of %d bytes, %v", got, p.SizeBytes, err)
			}
		})
	}
}

func FuzzOpenProgram(f *testing.F) {
	f.Add([]byte(content))
	f.Add(archiveOf(f, "package/bin/tool"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := OpenProgram(path, "tool")
		if err != nil {
			return
		}
		defer p.Close()
		if _, err := io.Copy(io.Discard, io.LimitReader(p, 1<<20)); err == nil && p.SizeBytes > maxProgramBytes {
			t.Errorf("a program of %d bytes", p.SizeBytes)
		}
	})
}
