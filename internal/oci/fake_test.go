package oci

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
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
		Backoff: time.Millisecond,
	}
}

// pull finds an image and fetches its layers.
func pull(ctx context.Context, r Registry, ref string) (*Image, error) {
	parsed, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	image, err := r.Find(ctx, parsed)
	if err != nil {
		return nil, err
	}
	if err := image.Fetch(ctx); err != nil {
		return nil, errors.Join(err, image.Close())
	}
	return image, nil
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
