package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger/api"
)

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

// testStall is longer than a busy machine takes for an answer.
const testStall = time.Second

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
		{"ErrWrongDigest", times(always, blob, text(strings.Repeat("x", len(lower)))), api.CodeUnavailable, "wrong content", []string{"GET"}},
		{"ErrTooLong", times(always, blob, text(string(lower)+"more")), api.CodeUnavailable, "larger than allowed", []string{"GET"}},
		{"ErrLongManifest", times(always, "/manifests/", text(strings.Repeat("x", maxManifestBytes+1))), api.CodeUnavailable, "unpacks to more", nil},
		{"ErrNoManifestAtAll", times(always, "/manifests/", text("<html>")), api.CodeInvalid, "read manifest", nil},
		{"ErrOldManifest", times(always, "/manifests/", text(`{"schemaVersion":1}`)), api.CodeUnsupported, "version 1", nil},
		{"ErrChart", times(always, "/manifests/", text(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"}}`)), api.CodeUnsupported, "not an image of a root filesystem", nil},
		{"ErrLargeConfig", times(always, "/manifests/", text(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":99999999,"digest":"sha256:`+sumOf(nil)+`"}}`)), api.CodeInvalid, "99999999 bytes", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeRegistry(t)
			f.push(t, "app", builtImage(t, v1.Config{}, lower, upper))
			f.inject(test.fault)
			r := puller(t)
			if strings.Contains(test.name, "Stall") {
				r.Stall = testStall
			}
			image, err := pull(t.Context(), r, f.ref("app"))
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
		if _, err := pull(ctx, r, f.ref("app")); !errors.Is(err, gone) {
			t.Errorf("%s: error %v, want %v", part, err, gone)
		}
		if entries, _ := filepath.Glob(filepath.Join(r.Cache.Dir, ".new-*")); len(entries) != 0 {
			t.Errorf("%s: half-made: %v", part, entries)
		}
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
