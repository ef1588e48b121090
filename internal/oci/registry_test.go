package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger/api"
	"banger/internal/progress"
)

// fault may answer a request instead of the registry; it reports whether it did.
type fault func(w http.ResponseWriter, r *http.Request) bool

// fakeRegistry is a real registry in this process, with a fault in front of it.
type fakeRegistry struct {
	host string

	mu    sync.Mutex // guards the fields below
	fault fault
	seen  []string // requests, without the host's own pings
}

func newFakeRegistry(t *testing.T) *fakeRegistry {
	f := &fakeRegistry{}
	inner := ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		fault := f.fault
		if r.URL.Path != "/v2/" {
			f.seen = append(f.seen, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
		}
		f.mu.Unlock()
		if fault == nil || !fault(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	f.host = strings.TrimPrefix(server.URL, "http://")
	return f
}

// requests returns those since it was asked last, that contain part.
func (f *fakeRegistry) requests(part string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, r := range f.seen {
		if strings.Contains(r, part) {
			found = append(found, r)
		}
	}
	f.seen = nil
	return found
}

func (f *fakeRegistry) inject(fault fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// push puts an image or an index under that name.
func (f *fakeRegistry) push(t *testing.T, as string, what remote.Taggable) {
	t.Helper()
	ref, err := name.ParseReference(f.host + "/" + as)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	put := func() error {
		if index, ok := what.(v1.ImageIndex); ok {
			return remote.WriteIndex(ref, index, remote.WithTransport(transport))
		}
		return remote.Write(ref, what.(v1.Image), remote.WithTransport(transport))
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	f.requests("")
}

// ref returns the reference of an image in this registry.
func (f *fakeRegistry) ref(as string) string { return f.host + "/" + as }

// builtImage makes an image for amd64 of packed layers.
func builtImage(t *testing.T, config v1.Config, layers ...[]byte) v1.Image {
	t.Helper()
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: config})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// puller returns a Registry with a cache of its own and no patience.
func puller(t *testing.T) Registry {
	return Registry{
		Cache: &Cache{Dir: filepath.Join(t.TempDir(), "layers")}, Keychain: authn.NewMultiKeychain(),
		Stall: 200 * time.Millisecond, Backoff: time.Millisecond,
	}
}

// onlyWhole checks that the cache holds layers and nothing half-made.
func onlyWhole(t *testing.T, c *Cache, layers int) {
	t.Helper()
	entries, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	whole, err := c.Layers()
	if err != nil || len(whole) != layers || len(entries) != layers {
		t.Errorf("cache holds %d layers in %v, want %d; %v", len(whole), entries, layers, err)
	}
}

func twoLayers(t *testing.T) (lower, upper []byte) {
	return gzipOf(t, tarOf(t, entry{name: "etc/"}, entry{name: "etc/a", content: strings.Repeat("one", 100)})),
		zstdOf(t, tarOf(t, entry{name: "etc/.wh.a"}, entry{name: "b", content: "two"}))
}

func TestPull(t *testing.T) {
	f := newFakeRegistry(t)
	lower, upper := twoLayers(t)
	config := v1.Config{Env: []string{"PATH=/bin", "LANG=C", "FROMHOST"}, WorkingDir: "srv", User: "www:1", Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"ls"}}
	image := builtImage(t, config, lower, upper)
	other, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	f.push(t, "app:1", index)
	f.push(t, "again", image)
	r := puller(t)

	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	var mu sync.Mutex
	ctx := progress.With(t.Context(), func(p api.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.State == api.ProgressDone {
			stages = append(stages, fmt.Sprintf("%s %d/%d %s", p.Stage, p.DoneBytes, p.TotalBytes, p.Detail))
		}
	})
	for _, pull := range []struct {
		ref   string
		blobs int // beside the configuration's
	}{{"app:1", 2}, {"app:1", 0}, {"again@" + digest.String(), 0}} {
		got, err := r.Pull(ctx, f.ref(pull.ref))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(f.requests("GET /v2/" + strings.FieldsFunc(pull.ref, func(r rune) bool { return r == ':' || r == '@' })[0] + "/blobs")); n != pull.blobs+1 {
			t.Errorf("%s: %d blobs were fetched, want %d", pull.ref, n-1, pull.blobs)
		}
		want := Config{Env: []string{"PATH=/bin", "LANG=C"}, WorkingDir: "/srv", User: "www:1", Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"ls"}}
		if diff := cmp.Diff(want, got.Config); diff != "" {
			t.Error(diff)
		}
		if !strings.HasSuffix(got.Source, "@"+digest.String()) {
			t.Errorf("source %q", got.Source)
		}
		tar, err := flatten(ctx, got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{rootLine, "5 755 0:0 etc/", `0 644 0:0 b "two"`}, listing(t, tar)); diff != "" {
			t.Error(diff)
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
	}
	onlyWhole(t, r.Cache, 2)
	mu.Lock()
	defer mu.Unlock()
	all := strings.Join(stages, "\n")
	for _, want := range []string{
		fmt.Sprintf("layer %.12s %d/%d \n", sumOf(lower), len(lower), len(lower)),
		fmt.Sprintf("layer %.12s 0/%d cached\n", sumOf(upper), len(upper)),
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no stage %q in\n%s", want, all)
		}
	}
}

// times returns a fault that works n times on requests whose path contains part.
func times(n int32, part string, f fault) fault {
	var count atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) bool {
		return strings.Contains(r.URL.Path, part) && count.Add(1) <= n && f(w, r)
	}
}

func status(code int) fault {
	return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
}

// hang answers nothing until the client leaves.
func hang(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

// partOf serves the first bytes of a layer and then breaks off, or hangs.
func partOf(text []byte, then fault) fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		_, _ = w.Write(text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		return then(w, r)
	}
}

func text(body string) fault {
	return func(w http.ResponseWriter, _ *http.Request) bool { _, _ = io.WriteString(w, body); return true }
}

func breakOff(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

func TestPullFaults(t *testing.T) {
	lower, upper := twoLayers(t)
	blob := "/blobs/sha256:" + sumOf(lower)
	const always = 1000
	for _, test := range []struct {
		name  string
		fault fault
		code  api.Code // empty: it succeeds
		want  string
		asked []string // requests for the lower layer; nil: not looked at
	}{
		{"NoFault", nil, "", "", []string{"GET"}},
		{"ErrUnauthorized", times(always, "/manifests/", status(401)), api.CodeInvalid, "access denied", nil},
		{"ErrForbidden", times(always, blob, status(403)), api.CodeInvalid, "access denied", []string{"GET"}},
		{"ErrNoManifest", times(always, "/manifests/", status(404)), api.CodeNotFound, "no image", nil},
		{"ErrNoLayer", times(always, blob, status(404)), api.CodeNotFound, "no image", []string{"GET"}},
		{"BusyTwice", times(2, blob, status(429)), "", "", []string{"GET", "GET", "GET"}},
		{"ManifestBusyOnce", times(1, "/manifests/", status(429)), "", "", nil},
		{"PingFailsOnce", times(1, "/v2/", status(503)), "", "", nil},
		{"ErrBusy", times(always, "/manifests/", status(429)), api.CodeUnavailable, "limits how often", nil},
		{"ErrBroken", times(always, blob, status(500)), api.CodeUnavailable, "500 Internal", []string{"GET", "GET", "GET", "GET"}},
		{"ErrPing", times(always, "/v2/", status(502)), api.CodeUnavailable, "reach registry", nil},
		{"StallOnce", times(1, blob, hang), "", "", []string{"GET", "GET"}},
		{"ErrStall", times(always, blob, hang), api.CodeUnavailable, "stalled", []string{"GET", "GET", "GET", "GET"}},
		{"StallInTheMiddle", times(1, blob, partOf(lower, hang)), "", "", []string{"GET", fmt.Sprintf("GET bytes=%d-%d", len(lower)/2, len(lower)-1)}},
		{"BreakInTheMiddle", times(1, blob, partOf(lower, breakOff)), "", "", []string{"GET", fmt.Sprintf("GET bytes=%d-%d", len(lower)/2, len(lower)-1)}},
		{"NoRanges", times(2, blob, partOf(lower, breakOff)), "", "", nil},
		{"RangeRefused", func() fault {
			first, second := times(1, blob, partOf(lower, breakOff)), times(2, blob, status(416))
			return func(w http.ResponseWriter, r *http.Request) bool {
				return r.Header.Get("Range") == "" && first(w, r) || r.Header.Get("Range") != "" && second(w, r)
			}
		}(), "", "", nil},
		{"ErrTruncated", times(always, blob, text(string(lower[:50]))), api.CodeUnavailable, "bytes of", nil},
		{"ErrWrongDigest", times(always, blob, text(strings.Repeat("x", len(lower)))), api.CodeUnavailable, "not what its digest says", []string{"GET"}},
		{"ErrTooLong", times(always, blob, text(string(lower)+"more")), api.CodeUnavailable, "not what its digest says", []string{"GET"}},
		{"ErrLongManifest", times(always, "/manifests/", text(strings.Repeat("x", maxManifestBytes+1))), api.CodeUnavailable, "unpacks to more", nil},
		{"ErrNoManifestAtAll", times(always, "/manifests/", text("<html>")), api.CodeInvalid, "read manifest", nil},
		{"ErrOldManifest", times(always, "/manifests/", text(`{"schemaVersion":1}`)), api.CodeUnsupported, "version 1", nil},
		{"ErrChart", times(always, "/manifests/", text(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"}}`)), api.CodeUnsupported, "not an image of a root filesystem", nil},
		{"ErrLargeConfig", times(always, "/manifests/", text(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":99999999,"digest":"sha256:`+sumOf(nil)+`"}}`)), api.CodeInvalid, "99999999 bytes", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeRegistry(t)
			f.push(t, "app", builtImage(t, v1.Config{}, lower, upper))
			f.inject(test.fault)
			r := puller(t)
			image, err := r.Pull(t.Context(), f.ref("app"))
			var asked []string
			for _, request := range f.requests("GET /v2/app" + blob) {
				asked = append(asked, strings.TrimSpace(strings.Replace(request, " /v2/app"+blob, "", 1)))
			}
			if diff := cmp.Diff(test.asked, asked); test.asked != nil && diff != "" {
				t.Errorf("requests: %s", diff)
			}
			if test.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer image.Close()
				if _, err := flatten(t.Context(), image); err != nil {
					t.Error(err)
				}
				onlyWhole(t, r.Cache, 2)
				return
			}
			if api.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v of code %s, want %s with %q", err, api.CodeOf(err), test.code, test.want)
			}
			if entries, _ := filepath.Glob(filepath.Join(r.Cache.Dir, ".new-*")); len(entries) != 0 {
				t.Errorf("half-made: %v", entries)
			}
		})
	}
}

func TestPullCanceled(t *testing.T) {
	f := newFakeRegistry(t)
	lower, upper := twoLayers(t)
	f.push(t, "app", builtImage(t, v1.Config{}, lower, upper))
	gone := errors.New("Ctrl-C")
	for _, part := range []string{"/v2/", "/manifests/", "/blobs/sha256:" + sumOf(lower)} {
		ctx, cancel := context.WithCancelCause(t.Context())
		f.inject(times(1, part, func(w http.ResponseWriter, r *http.Request) bool {
			cancel(gone)
			return partOf(lower, hang)(w, r)
		}))
		r := puller(t)
		r.Stall = time.Minute
		if _, err := r.Pull(ctx, f.ref("app")); !errors.Is(err, gone) {
			t.Errorf("%s: error %v, want %v", part, err, gone)
		}
		if entries, _ := filepath.Glob(filepath.Join(r.Cache.Dir, ".new-*")); len(entries) != 0 {
			t.Errorf("%s: half-made: %v", part, entries)
		}
	}
}

// Two pulls of images that share a layer fetch it once.
func TestPullsShareLayers(t *testing.T) {
	f := newFakeRegistry(t)
	lower, upper := twoLayers(t)
	f.push(t, "a", builtImage(t, v1.Config{}, lower))
	f.push(t, "b", builtImage(t, v1.Config{}, lower, upper, lower))
	both := make(chan struct{})
	var waiting atomic.Int32
	f.inject(func(_ http.ResponseWriter, r *http.Request) bool { // each waits for the other before its layers
		if strings.Contains(r.URL.Path, "/manifests/") {
			if waiting.Add(1) == 2 {
				close(both)
			}
			<-both
		}
		return false
	})
	r := puller(t)
	var group sync.WaitGroup
	for _, ref := range []string{"a", "b"} {
		group.Go(func() {
			image, err := r.Pull(t.Context(), f.ref(ref))
			if err != nil {
				t.Error(err)
				return
			}
			defer image.Close()
			if _, err := flatten(t.Context(), image); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := len(f.requests("/blobs/sha256:" + sumOf(lower))); n != 1 {
		t.Errorf("the shared layer was fetched %d times", n)
	}
	onlyWhole(t, r.Cache, 2)
}

func TestPullRefuses(t *testing.T) {
	f := newFakeRegistry(t)
	lower, _ := twoLayers(t)
	withArch := func(os, arch string) v1.Image {
		image := builtImage(t, v1.Config{}, lower)
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config.OS, config.Architecture = os, arch
		if image, err = mutate.ConfigFile(image, config); err != nil {
			t.Fatal(err)
		}
		return image
	}
	f.push(t, "arm", withArch("linux", "arm64"))
	f.push(t, "windows", withArch("windows", "amd64"))
	f.push(t, "index", mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: withArch("linux", "arm64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: withArch("", ""), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}}))
	f.push(t, "nothing", builtImage(t, v1.Config{}))
	f.push(t, "zero", builtImage(t, v1.Config{Env: []string{"A=b\x00c"}}, lower))
	f.push(t, "user", builtImage(t, v1.Config{User: "a\x00b"}, lower))
	foreign, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(lower)), nil }, tarball.WithMediaType(types.DockerForeignLayer))
	if err != nil {
		t.Fatal(err)
	}
	withForeign, err := mutate.AppendLayers(builtImage(t, v1.Config{}), foreign)
	if err != nil {
		t.Fatal(err)
	}
	f.push(t, "foreign", withForeign)
	for ref, want := range map[string]struct {
		code api.Code
		text string
	}{
		"arm":         {api.CodeUnsupported, `made for "linux" on "arm64"`},
		"windows":     {api.CodeUnsupported, `made for "windows"`},
		"index":       {api.CodeUnsupported, `only for ["linux/arm64"]`},
		"nothing":     {api.CodeInvalid, "no layers"},
		"zero":        {api.CodeInvalid, "zero byte"},
		"user":        {api.CodeInvalid, "zero byte"},
		"foreign":     {api.CodeUnsupported, "foreign"},
		"missing":     {api.CodeNotFound, "no image"},
		"UPPER":       {api.CodeInvalid, "bad image reference"},
		"a@sha256:12": {api.CodeInvalid, "bad image reference"},
	} {
		if _, err := puller(t).Pull(t.Context(), f.ref(ref)); api.CodeOf(err) != want.code || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %v (%s), want %s with %q", ref, err, api.CodeOf(err), want.code, want.text)
		}
	}
}

func TestCheckReference(t *testing.T) {
	for ref, want := range map[string]string{
		"busybox":                "index.docker.io/library/busybox:latest",
		"me/app:1":               "index.docker.io/me/app:1",
		"localhost:5000/x":       "localhost:5000/x:latest",
		"ghcr.io/o/a/b:v1.2":     "ghcr.io/o/a/b:v1.2",
		"docker.io/library/bash": "index.docker.io/library/bash:latest",
	} {
		if got, err := CheckReference(ref); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", ref, got, err, want)
		}
	}
	for _, ref := range []string{"", " ", "a b", "http://x/y", "-x:", "a:b:c"} {
		if got, err := CheckReference(ref); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %q, %v", ref, got, err)
		}
	}
}

// Credentials come from Docker's configuration: as they stand there, or from the helper it names.
func TestCredentials(t *testing.T) {
	f := newFakeRegistry(t)
	lower, _ := twoLayers(t)
	f.push(t, "secret", builtImage(t, v1.Config{}, lower))
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user == "ann" && password == "pass" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	bin := t.TempDir()
	helper := "#!/bin/sh\nread server\n[ \"$server\" = " + f.host + " ] && echo '{\"Username\":\"ann\",\"Secret\":\"pass\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-fake"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, test := range []struct {
		name, config string
		code         api.Code
	}{
		{"Stored", fmt.Sprintf(`{"auths":{%q:{"auth":"YW5uOnBhc3M="}}}`, f.host), ""},
		{"Helper", fmt.Sprintf(`{"credHelpers":{%q:"fake"}}`, f.host), ""},
		{"ErrWrongPassword", fmt.Sprintf(`{"auths":{%q:{"auth":"YW5uOm5v"}}}`, f.host), api.CodeInvalid},
		{"ErrNone", `{}`, api.CodeInvalid},
		{"ErrMalformed", `{`, api.CodeInvalid},
		{"ErrNoHelper", fmt.Sprintf(`{"credHelpers":{%q:"missing"}}`, f.host), api.CodeInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("DOCKER_CONFIG", home)
			if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(test.config), 0o600); err != nil {
				t.Fatal(err)
			}
			r := puller(t)
			r.Keychain = nil
			image, err := r.Pull(t.Context(), f.ref("secret"))
			if test.code == "" && err != nil || test.code != "" && api.CodeOf(err) != test.code {
				t.Errorf("error %v, want code %q", err, test.code)
			}
			if image != nil {
				_ = image.Close()
			}
		})
	}
}

// slowKeychain never answers.
type slowKeychain struct{ asked chan struct{} }

func (s slowKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	<-s.asked
	return authn.Anonymous, nil
}

func TestHelperThatHangs(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	r := puller(t)
	r.Keychain = slowKeychain{release}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Pull(ctx, "localhost:1/x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestPlainHTTPStaysHere(t *testing.T) {
	f := newFakeRegistry(t)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: guard{transport}}
	for host, want := range map[string]bool{f.host: true, "192.0.2.1:80": false, "example.invalid": false} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		if (err == nil) != want || err != nil && !errors.Is(err, errPlain) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestCheckRedirect(t *testing.T) {
	for _, test := range []struct {
		from, to string
		ok       bool
	}{
		{"https://ghcr.io/v2/x", "https://blobs.example.com/y", true},
		{"https://ghcr.io/v2/x", "https://192.0.2.7/y", true},
		{"https://ghcr.io/v2/x", "http://169.254.169.254/latest", false},
		{"https://ghcr.io/v2/x", "https://10.0.0.1/", false},
		{"https://ghcr.io/v2/x", "https://[::1]:80/", false},
		{"https://ghcr.io/v2/x", "https://[::ffff:127.0.0.1]/", false},
		{"https://ghcr.io/v2/x", "https://localhost/", false},
		{"https://10.0.0.1/v2/x", "https://10.0.0.1/y", true},
		{"http://127.0.0.1:5000/v2/x", "http://localhost:5000/y", true},
	} {
		request := func(text string) *http.Request {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			return &http.Request{URL: u}
		}
		if err := checkRedirect(request(test.to), []*http.Request{request(test.from)}); (err == nil) != test.ok {
			t.Errorf("%s to %s: %v", test.from, test.to, err)
		}
	}
}

// TestDiskFull pulls into a real small tmpfs in a mount namespace of its own.
func TestDiskFull(t *testing.T) {
	if os.Getenv("DISK_FULL_DIR") == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
			`mount -t tmpfs -o size=300k none "$DISK_FULL_DIR" && exec "$0" -test.run=^TestDiskFull$`, os.Args[0])
		cmd.Env = append(os.Environ(), "DISK_FULL_DIR="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("in the namespace: %v\n%s", err, out)
		}
		return
	}
	dir := os.Getenv("DISK_FULL_DIR")
	f := newFakeRegistry(t)
	noise := make([]byte, 400<<10)
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(noise)
	packed := tarOf(t, entry{name: "a", content: string(noise)})
	f.push(t, "app", builtImage(t, v1.Config{}, packed))
	r := puller(t)
	r.Cache.Dir = filepath.Join(dir, "layers")
	_, before := r.Pull(t.Context(), f.ref("app"))
	_, _, during := r.Cache.get(t.Context(), sumOf(noise), 400<<10, func(file *os.File) error {
		_, err := file.Write(noise)
		return err
	})
	image := imageOf(packed)
	for name, err := range map[string]error{
		"BeforeTheDownload": before,
		"DuringTheDownload": during,
		"Filesystem":        image.WriteExt4(t.Context(), filepath.Join(dir, "rootfs"), "x"),
	} {
		if api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("%s: %v, want an error of code %s", name, err, api.CodeUnavailable)
		}
	}
	if _, err := OpenArchive(t.Context(), writeFile(t, gzipOf(t, packed)), dir, Limits{}); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("packed archive: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 0 || len(files) > 1 {
		t.Errorf("files left: %v %v", left, files)
	}
}

func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCacheTrim(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := &Cache{Dir: filepath.Join(t.TempDir(), "layers"), clock: func() time.Time { return now }}
	if all, err := c.Layers(); len(all) != 0 || err != nil {
		t.Errorf("a cache that is not there: %v, %v", all, err)
	}
	var digests []string
	for n := range 4 {
		text := bytes.Repeat([]byte{byte(n)}, 100)
		digests = append(digests, sumOf(text))
		file, cached, err := c.get(t.Context(), sumOf(text), 100, func(file *os.File) error { _, err := file.Write(text); return err })
		if err != nil || cached {
			t.Fatal(cached, err)
		}
		_ = file.Close()
		old := now.Add(-time.Duration(10-n) * time.Hour)
		if err := os.Chtimes(c.path(sumOf(text)), old, old); err != nil {
			t.Fatal(err)
		}
	}
	held := c.open(digests[0], 100) // used now
	defer held.Close()
	if c.open(digests[1], 99) != nil {
		t.Error("a layer of another size was taken")
	}
	if err := os.WriteFile(filepath.Join(c.Dir, partPrefix+"1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Sweep(); err != nil {
		t.Error(err)
	}
	if freed, err := c.Trim(250); freed != 200 || err != nil {
		t.Errorf("freed %d, %v", freed, err)
	}
	left, err := c.Layers()
	if err != nil || len(left) != 2 || left[0].Digest != digests[0] || left[1].Digest != digests[3] {
		t.Errorf("left %v, %v", left, err)
	}
	if freed, err := c.Trim(0); freed != 200 || err != nil {
		t.Errorf("freed %d, %v", freed, err)
	}
	onlyWhole(t, c, 0)
	if n, err := held.ReadAt(make([]byte, 100), 0); n != 100 || err != nil {
		t.Errorf("an open layer: %d, %v", n, err)
	}
}

// What a registry says about an image is judged without panics, and what passes is in bounds.
func FuzzManifests(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":1,"digest":"sha256:`+sumOf(nil)+`"}]}`),
		[]byte(`{"os":"linux","architecture":"amd64","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["sha256:`+sumOf(nil)+`"]}}`))
	f.Add([]byte(`{"manifests":[{"platform":{"os":"linux","architecture":"amd64"},"digest":"sha256:`+sumOf(nil)+`"}]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		if index, err := v1.ParseIndexManifest(bytes.NewReader(manifest)); err == nil {
			_, _ = pick(index)
		}
		m, err := parseManifest(manifest)
		if err != nil {
			return
		}
		file, err := parseConfig(config)
		if err != nil {
			return
		}
		c, diffIDs, err := configOf(file)
		if err != nil || checkLayers(m.Layers, diffIDs, Limits{}.withDefaults()) != nil {
			return
		}
		for _, l := range m.Layers {
			if !isDigest(l.Digest.Hex) || l.Size < 0 {
				t.Fatalf("layer %v passed", l)
			}
		}
		if text, err := json.Marshal(c); err != nil || bytes.Contains(text, []byte(`\u0000`)) {
			t.Fatalf("configuration %s passed, %v", text, err)
		}
	})
}
