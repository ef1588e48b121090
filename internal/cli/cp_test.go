package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

// archive is a tar stream of files by name.
func archive(t *testing.T, files ...[2]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		header := &tar.Header{Name: f[0], Mode: 0o640, Size: int64(len(f[1]))}
		if strings.HasSuffix(f[0], "/") {
			header = &tar.Header{Name: f[0], Mode: 0o750, Typeflag: tar.TypeDir}
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// contents reads a tar stream, as far as it goes.
func contents(r io.Reader) map[string]string {
	files := map[string]string{}
	for stream := tar.NewReader(r); ; {
		header, err := stream.Next()
		if err != nil {
			return files
		}
		data, err := io.ReadAll(stream)
		if err != nil {
			return files
		}
		files[header.Name] = string(data)
	}
}

// Files and folders go in as one stream, with their names.
func TestCopyIn(t *testing.T) {
	from := t.TempDir()
	err := errors.Join(
		os.MkdirAll(filepath.Join(from, "project", "sub"), 0o755),
		os.WriteFile(filepath.Join(from, "project", "a"), []byte("one"), 0o600),
		os.WriteFile(filepath.Join(from, "project", "sub", "b"), []byte(strings.Repeat("x", 3<<20)), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	dir := fakeDaemon(
		t,
		map[string]http.HandlerFunc{"PUT /v1/machines/web/files": func(w http.ResponseWriter, r *http.Request) {
			switch path := r.URL.Query().Get("path"); path {
			case "/refused": // before anything is read
				refuses(api.Errorf(api.CodeConflict, "machine web is stopped"))(w, r)
			default:
				if r.Header.Get("Content-Type") != "application/x-tar" || path != "/srv" {
					t.Errorf("path %s, type %s", path, r.Header.Get("Content-Type"))
				}
				got = contents(r.Body)
				w.WriteHeader(http.StatusNoContent)
			}
		}},
	)
	if r := banger(t, dir, "cp", filepath.Join(from, "project"), "web:/srv"); r != (result{}) {
		t.Errorf("cp = %+v", r)
	}
	if got["project/a"] != "one" || len(got["project/sub/b"]) != 3<<20 {
		t.Errorf("what came: %d files, a is %q", len(got), got["project/a"])
	}
	if r := banger(t, dir, "cp", filepath.Join(from, "project"), "web:/refused"); r != (result{1, "", "banger: machine web is stopped\n"}) {
		t.Errorf("cp that is refused = %+v", r)
	}
	if r := banger(t, dir, "cp", filepath.Join(from, "nothing"), "web:/srv"); r.code != 1 ||
		!strings.Contains(r.stderr, "no such file") {
		t.Errorf("cp of nothing = %+v", r)
	}
	stdin, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	go func() {
		defer w.Close()
		_, _ = w.Write(archive(t, [2]string{"c", "three"}))
	}()
	if r := bangerWith(t, dir, stdin, "cp", "-", "web:/srv"); r != (result{}) {
		t.Errorf("cp of a stream = %+v", r)
	}
	if diff := cmp.Diff(map[string]string{"c": "three"}, got); diff != "" {
		t.Errorf("a stream (-want +got):\n%s", diff)
	}
}

// What comes out lands in a folder or on standard output; a stream that breaks off is a failure.
func TestCopyOut(t *testing.T) {
	stream := archive(t, [2]string{"etc/", ""}, [2]string{"etc/a", "one"})
	dir := fakeDaemon(
		t,
		map[string]http.HandlerFunc{"GET /v1/machines/web/files": func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Query().Get("path") {
			case "/nowhere":
				refuses(api.Errorf(api.CodeNotFound, "no file /nowhere"))(w, r)
			case "/cut":
				_, _ = w.Write(stream[:600])
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			default:
				_, _ = w.Write(stream)
			}
		}},
	)
	to := t.TempDir()
	if r := banger(t, dir, "cp", "web:/etc", to); r != (result{}) {
		t.Errorf("cp = %+v", r)
	}
	if data, err := os.ReadFile(filepath.Join(to, "etc", "a")); string(data) != "one" || err != nil {
		t.Errorf("what came out: %q, %v", data, err)
	}
	if r := banger(t, dir, "cp", "web:/etc", "-"); r != (result{0, string(stream), ""}) {
		t.Errorf("cp to a stream: exit code %d, %d bytes, %s", r.code, len(r.stdout), r.stderr)
	}
	if r := banger(t, dir, "cp", "web:/nowhere", to); r != (result{1, "", "banger: no file /nowhere\n"}) {
		t.Errorf("cp of nothing = %+v", r)
	}
	for _, place := range []string{to, "-"} {
		if r := banger(t, dir, "cp", "web:/cut", place); r.code != 1 || !strings.Contains(r.stderr, "unexpected EOF") {
			t.Errorf("cp to %s that was cut = %+v", place, r)
		}
	}
}

// An archive replaces a file when it is whole, and leaves it alone otherwise.
func TestSaveAndLoad(t *testing.T) {
	var loaded string
	dir := fakeDaemon(t, map[string]http.HandlerFunc{
		"GET /v1/images/{image}/archive": func(w http.ResponseWriter, r *http.Request) {
			if r.PathValue("image") == "nosuch" {
				refuses(api.Errorf(api.CodeNotFound, "no image nosuch"))(w, r)
				return
			}
			io.WriteString(w, "the archive")
			if r.PathValue("image") == "cut" {
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		},
		"POST /v1/images/load": func(w http.ResponseWriter, r *http.Request) {
			data, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			loaded = r.URL.Query().Get("name") + ":" + string(data)
			says(
				api.Event[api.Image]{Result: &api.Image{ID: "0123456789abcdef", Names: []string{"mine"}, SizeBytes: 1 << 20}},
			)(
				w,
				r,
			)
		},
	})
	file := filepath.Join(t.TempDir(), "work.tar.zst")
	if r := banger(t, dir, "image", "save", "work", "-o", file); r.code != 0 || r.stdout != "" {
		t.Errorf("save = %+v", r)
	}
	for _, name := range []string{"cut", "nosuch"} {
		if r := banger(t, dir, "image", "save", name, "-o", file); r.code != 1 || r.stdout != "" {
			t.Errorf("save of %s = %+v", name, r)
		}
		if data, err := os.ReadFile(file); string(data) != "the archive" || err != nil {
			t.Errorf("after a save of %s the file holds %q, %v", name, data, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); len(entries) != 1 || err != nil {
		t.Errorf("beside the archive there is %v, %v", entries, err)
	}
	if r := banger(t, dir, "image", "save", "work", "-o", "-"); r.code != 0 || r.stdout != "the archive" {
		t.Errorf("save to standard output = %+v", r)
	}
	if r := banger(t, dir, "image", "load", file); r != (result{0, "mine   1MiB   0123456789ab\n", ""}) ||
		loaded != ":the archive" {
		t.Errorf("load = %+v of %q", r, loaded)
	}
	stdin, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if r := bangerWith(t, dir, stdin, "image", "load", "--name", "copy", "-"); r.code != 0 ||
		loaded != "copy:the archive" {
		t.Errorf("load of a stream = %+v of %q", r, loaded)
	}
	if r := banger(t, dir, "image", "load", filepath.Join(dir, "nowhere")); r.code != 1 ||
		!strings.Contains(r.stderr, "no such file") {
		t.Errorf("load of nothing = %+v", r)
	}
}
