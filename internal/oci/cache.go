package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/internal/atomicfile"
	"banger/internal/disk"
)

// Cache keeps layers as registries serve them, one file each, named by the sha256 of its content.
// All images share them. It is safe for concurrent use by one process.
type Cache struct {
	Dir string // made when it is needed

	mu    sync.Mutex               // guards busy
	busy  map[string]chan struct{} // digests being fetched; closed when that ended
	clock func() time.Time         // of last use; nil is time.Now
}

func (c *Cache) path(digest string) string { return filepath.Join(c.Dir, digest) }

// get returns the open file of a layer: the cached one, or a new one that download fills. Who asks
// for a layer that is being fetched waits for it. On an error nothing stays. cached reports whether
// nothing was downloaded.
func (c *Cache) get(ctx context.Context, digest string, size int64, download func(*os.File) error) (file *os.File, cached bool, err error) {
	unlock, err := c.lock(ctx, digest)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	if file := c.open(digest, size); file != nil {
		return file, true, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, false, fmt.Errorf("make layer cache: %w", err)
	}
	file, err = c.fill(digest, download)
	return file, false, err
}

// fill makes the file of a layer and opens it. It is durable: a name without content would outlive
// a power cut as damage.
func (c *Cache) fill(digest string, download func(*os.File) error) (file *os.File, err error) {
	err = atomicfile.Fill(c.path(digest), 0o600, atomicfile.Durable, func(part *os.File) error {
		if err := download(part); err != nil {
			return err
		}
		var err error
		file, err = os.Open(part.Name()) // before it has its name, by which Trim may remove it at any time
		return err
	})
	if err != nil {
		err = disk.ExplainFull(c.Dir, err)
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return nil, err
	}
	return file, nil
}

// lock waits until nobody else fetches the digest.
func (c *Cache) lock(ctx context.Context, digest string) (unlock func(), err error) {
	for {
		c.mu.Lock()
		other := c.busy[digest]
		if other == nil {
			if c.busy == nil {
				c.busy = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			c.busy[digest] = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				delete(c.busy, digest)
				c.mu.Unlock()
				close(mine)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-other:
		}
	}
}

// open returns the cached file, or nil. Its content is checked when the layer is read.
func (c *Cache) open(digest string, size int64) *os.File {
	file, err := os.Open(c.path(digest))
	if err != nil {
		return nil
	}
	info, err := file.Stat()
	if err != nil || info.Size() != size {
		_ = file.Close()
		return nil
	}
	now := c.now()
	_ = os.Chtimes(file.Name(), now, now) // Trim goes by it; without, the layer only looks older than it is
	return file
}

func (c *Cache) now() time.Time {
	if c.clock != nil {
		return c.clock()
	}
	return time.Now()
}

// forget removes a layer that turned out to be damaged.
func (c *Cache) forget(digest string) error { return os.Remove(c.path(digest)) }

// Layer is a cached layer.
type Layer struct {
	Digest    string // sha256, hex
	SizeBytes int64
	LastUsed  time.Time
}

// Layers returns what the cache holds, what was used last first.
func (c *Cache) Layers() ([]Layer, error) {
	entries, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	var all []Layer
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && isDigest(e.Name()) {
			all = append(all, Layer{e.Name(), info.Size(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b Layer) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), cmp.Compare(a.Digest, b.Digest))
	})
	return all, nil
}

// Trim removes the layers that were used least lately until at most maxBytes are left, and returns
// how many bytes it removed. Images that are being read keep their open files.
func (c *Cache) Trim(maxBytes int64) (freedBytes int64, err error) {
	all, err := c.Layers()
	if err != nil {
		return 0, err
	}
	var kept int64
	var errs []error
	for _, l := range all {
		if kept+l.SizeBytes <= maxBytes {
			kept += l.SizeBytes
			continue
		}
		if err := os.Remove(c.path(l.Digest)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		freedBytes += l.SizeBytes
	}
	return freedBytes, errors.Join(errs...)
}

// Sweep removes what a crash left. Call it while nothing is fetched.
func (c *Cache) Sweep() error { return atomicfile.Sweep(c.Dir) }

// isDigest reports whether s is a sha256 in hex: only such a text becomes the name of a file.
func isDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// maxFetches is how many layers are fetched at a time.
const maxFetches = 3

// fetchAll runs fetch for 0 to n-1, some at a time, and returns the first error after all have
// ended.
func fetchAll(ctx context.Context, n int, fetch func(ctx context.Context, n int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxFetches)
	for k := range n {
		group.Go(func() error { return fetch(ctx, k) })
	}
	return group.Wait()
}
