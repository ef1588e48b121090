package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"banger/api"
)

// TestPulledImage boots an image of a registry that holds busybox and no init: the agent stays PID
// 1 and reaps. What the image says of commands is used, and the same image from an archive is the
// same image.
func TestPulledImage(t *testing.T) {
	h := newHome(t)
	registry, source := registryWithBusybox(t)
	if out := h.banger("run", "--name", "bare", "--image", source, "--memory", "256MiB", "--", "given"); out != "entry given: hello in /srv/app as app\n" {
		t.Errorf("its entrypoint says %q", out)
	}
	for _, test := range []struct {
		want string
		args []string
	}{
		{"hello /srv/app app\n", []string{"bare", "--", "sh", "-c", "echo $GREETING $(pwd) $(id -un)"}},
		{"bye / root\n", []string{"-e", "GREETING=bye", "-w", "/", "-u", "root", "bare", "--", "sh", "-c", "echo $GREETING $(pwd) $(id -un)"}},
		{"bare\n/root\n", []string{"-u", "root", "bare", "--", "sh", "-c", "hostname; echo $HOME"}},
		{"4755 1000:100\n", []string{"bare", "--", "stat", "-c", "%a %u:%g", "/bin/owned"}},
		{"2\n", []string{"bare", "--", "stat", "-c", "%h", "/bin/linked"}},
		{"gone\n", []string{"bare", "--", "sh", "-c", "test -e /tmp/lower || echo gone"}},
	} {
		if out := h.banger(append([]string{"exec"}, test.args...)...); out != test.want {
			t.Errorf("exec %v: %q, want %q", test.args, out, test.want)
		}
	}
	if out := h.banger("exec", "bare", "--", "cat", "/proc/1/comm"); out != "banger-guest\n" && out != "init\n" {
		t.Errorf("PID 1 is %q", out)
	}
	h.banger("exec", "bare", "--", "sh", "-c", "(sleep 0.2 &) ; true") // an orphan, which PID 1 has to reap
	eventually(t, "no zombies", func() bool {
		return strings.TrimSpace(h.banger("exec", "bare", "--", "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")) == "0"
	})
	h.banger("wait", "bare", "--for", "booted")
	h.banger("exec", "-u", "root", "bare", "--", "sh", "-c", "echo kept > /root/file")
	h.banger("stop", "bare")
	h.wantState("bare", api.StateStopped, "stopped")
	h.banger("start", "bare")
	if out := h.banger("exec", "-u", "root", "bare", "--", "cat", "/root/file"); out != "kept\n" {
		t.Errorf("after stop and start the file holds %q", out)
	}
	h.banger("rm", "-f", "bare")

	pulled := h.image(source)
	want := api.ImageDefaults{Env: []string{"GREETING=hello"}, WorkDir: "/srv/app", User: "app", Entrypoint: []string{"/bin/entry"}, Cmd: []string{"standard"}}
	if diff := cmp.Diff(want, pulled.Defaults); diff != "" {
		t.Errorf("defaults: %s", diff)
	}
	before := registry.blobs.Load()
	h.banger("image", "pull", source, "--name", "again")
	if n := registry.blobs.Load() - before; n != 1 {
		t.Errorf("a second pull fetched %d blobs, want the configuration alone", n)
	}
	h.banger("image", "pull", "docker-archive:"+registry.saved)
	if again, saved := h.image("again"), h.image("saved"); again.ID != pulled.ID || saved.ID != pulled.ID {
		t.Errorf("pulled %.12s, again %.12s, from an archive %.12s", pulled.ID, again.ID, saved.ID)
	}
}

// TestPullFails shows what a user sees, and that nothing half-made is left.
func TestPullFails(t *testing.T) {
	h := newHome(t)
	registry, source := registryWithBusybox(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	images := h.banger("image", "ls")
	h.fails(1, "no image "+registry.host+"/none:latest", "image", "pull", "oci:"+registry.host+"/none")
	h.fails(1, "no image", "run", "--rm", "--image", "oci:"+registry.host+"/none", "--", "true")
	h.fails(1, "sources are oci:REFERENCE", "image", "pull", "busybox")
	h.fails(1, "bad image", "image", "pull", "tar:"+text)
	h.fails(1, "no such file", "image", "pull", "docker-archive:/none")
	h.fails(1, "banger image pull tar:"+text, "create", "--image", "tar:"+text)
	h.fails(2, "names no file", "image", "pull", "tar:")
	h.fails(1, "cannot be a name", "image", "pull", source, "--name", "a b")

	registry.hang.Store(true)
	for name, end := range map[string]func(*exec.Cmd) error{
		"Ctrl-C":             func(pull *exec.Cmd) error { return pull.Process.Signal(os.Interrupt) },
		"the daemon's death": func(*exec.Cmd) error { return syscall.Kill(h.daemon().PID, syscall.SIGKILL) },
	} {
		pull := h.command(t.Context(), "image", "pull", source)
		if err := pull.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the pull waits for a layer", func() bool { return registry.waiting.Load() > 0 })
		if err := end(pull); err != nil {
			t.Fatal(err)
		}
		if err := pull.Wait(); err == nil {
			t.Errorf("after %s the pull ends with exit status 0", name)
		}
		eventually(t, "the registry's client has gone", func() bool { return registry.waiting.Load() == 0 })
		if now := h.banger("image", "ls"); now != images {
			t.Errorf("after %s the images are\n%s", name, now)
		}
		eventually(t, "nothing half-made is left", func() bool {
			cached, _ := filepath.Glob(filepath.Join(h.dir, "cache", "layers", "sha256", ".new-*"))
			half, _ := filepath.Glob(filepath.Join(h.dir, "images", ".new-*"))
			return len(cached)+len(half) == 0
		})
	}
	registry.hang.Store(false)
	h.banger("image", "pull", source)
}

// busyRegistry is a registry in this process.
type busyRegistry struct {
	host  string
	saved string // file with its image, as `docker save` writes it

	blobs   atomic.Int32 // requests for blobs
	hang    atomic.Bool  // blobs are not answered until resume is closed
	resume  chan struct{}
	waiting atomic.Int32 // requests that hang
}

// registryWithBusybox serves an image of two layers, and returns its source.
func registryWithBusybox(t *testing.T) (*busyRegistry, string) {
	t.Helper()
	r := &busyRegistry{saved: filepath.Join(t.TempDir(), "saved.tar"), resume: make(chan struct{})}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Method == http.MethodGet && strings.Contains(request.URL.Path, "/blobs/") {
			r.blobs.Add(1)
			if r.hang.Load() {
				r.waiting.Add(1)
				defer r.waiting.Add(-1)
				select {
				case <-request.Context().Done():
					return
				case <-r.resume:
				}
			}
		}
		inner.ServeHTTP(w, request)
	}))
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")

	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{
		Env: []string{"GREETING=hello"}, WorkingDir: "/srv/app", User: "app", Entrypoint: []string{"/bin/entry"}, Cmd: []string{"standard"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{busyboxTar(t), upperTar(t)} {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			t.Fatal(err)
		}
	}
	tag, err := name.NewTag(r.host + "/team/busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(remote.Write(tag, image), tarball.WriteToFile(r.saved, tag, image)); err != nil {
		t.Fatal(err)
	}
	r.blobs.Store(0)
	return r, "oci:" + tag.String()
}

// upperTar is a layer over busyboxTar's.
func upperTar(t *testing.T) []byte {
	t.Helper()
	const entry = "#!/bin/sh\necho entry \"$@\": $GREETING in $(pwd) as $(id -un)\n"
	return tarOf(t, []tarEntry{
		{tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:100:app:/tmp:/bin/sh\n"},
		{tar.Header{Typeflag: tar.TypeReg, Name: "bin/entry", Mode: 0o755}, entry},
		{tar.Header{Typeflag: tar.TypeReg, Name: "bin/owned", Mode: 0o4755, Uid: 1000, Gid: 100}, "x"},
		{tar.Header{Typeflag: tar.TypeLink, Name: "bin/linked", Linkname: "bin/owned"}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "tmp/.wh.lower"}, ""},
	})
}

type tarEntry struct {
	header tar.Header
	data   string
}

func tarOf(t *testing.T, entries []tarEntry) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range entries {
		e.header.Size, e.header.ModTime = int64(len(e.data)), time.Unix(1e9, 0)
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// busyboxTar is a root with the host's static busybox and its applets, and nothing else.
func busyboxTar(t *testing.T) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	applets, err := exec.CommandContext(t.Context(), path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var entries []tarEntry
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"} {
		entries = append(entries, tarEntry{tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, ""})
	}
	entries = append(entries,
		tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program)},
		tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "tmp/lower", Mode: 0o644}, "hidden"})
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" && applet != "init" && applet != "linuxrc" {
			entries = append(entries, tarEntry{tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, ""})
		}
	}
	return tarOf(t, entries)
}
