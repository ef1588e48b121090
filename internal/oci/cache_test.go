package oci

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger/api"
)

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
			image, err := pull(t.Context(), r, f.ref(ref))
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
	_, before := pull(t.Context(), r, f.ref("app"))
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
	sparse := imageOf(gnuSparse(64 << 20)) // much more than there is, but of holes
	if err := sparse.WriteExt4(t.Context(), filepath.Join(dir, "sparse"), "x"); err != nil {
		t.Errorf("sparse: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "sparse")); err != nil {
		t.Error(err)
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
	if err := os.WriteFile(filepath.Join(c.Dir, ".new-1"), nil, 0o600); err != nil {
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
