package download

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/atomicfile"
	"banger/internal/disk"
	"banger/internal/fetch"
	"banger/internal/progress"
)

const (
	maxFileBytes  = 1 << 30
	maxEntryBytes = 4 << 20 // of the registry's answer about one version
)

// Cache is a folder of files by their hash. It is safe for concurrent use, also by several
// processes.
type Cache struct {
	Dir      string
	Registry string        // URL of the npm registry
	Backoff  time.Duration // see fetch.Client
	Stall    time.Duration // likewise
}

// Fetch returns the path of the source's file in the cache, verified, after getting it when it is
// not there. The stage is what the progress calls it.
func (c *Cache) Fetch(ctx context.Context, s Source, stage string) (_ string, err error) {
	at := s.url
	if s.pkg != "" && (s.want == digest{} || !c.has(ctx, s.want)) {
		entry, err := c.npmEntry(ctx, s)
		if err != nil {
			return "", err
		}
		at, s.want = entry.url, entry.want
	}
	path := filepath.Join(c.Dir, s.want.fileName())
	if c.has(ctx, s.want) {
		return path, nil
	}
	unlock, err := disk.Lock(ctx, c.Dir, s.want.fileName()[:40])
	if err != nil {
		return "", err
	}
	defer unlock()
	if c.has(ctx, s.want) {
		return path, nil // somebody else got it while this one waited
	}
	shown := progress.Start(ctx, stage)
	defer func() { shown.End(err) }()
	return path, c.get(ctx, at, s.want, path, shown)
}

// has reports whether the cache holds the file, whole.
func (c *Cache) has(ctx context.Context, want digest) bool {
	file, err := os.Open(filepath.Join(c.Dir, want.fileName()))
	if err != nil {
		return false
	}
	defer file.Close()
	sum := want.new()
	if _, err := io.Copy(sum, disk.WithContext(ctx, file)); err != nil {
		return false
	}
	return hex.EncodeToString(sum.Sum(nil)) == want.hex
}

// Sweep removes what a crash left half-made. Call it while nobody fetches.
func (c *Cache) Sweep() error { return atomicfile.Sweep(c.Dir) }

// npmEntry is where the registry has a version of a package, and its hash.
type npmEntry struct {
	url  string
	want digest
}

func (c *Cache) npmEntry(ctx context.Context, s Source) (npmEntry, error) {
	at := strings.TrimRight(c.Registry, "/") + "/" + url.PathEscape(s.pkg) + "/" + s.version
	text, err := c.files().Text(ctx, fetch.File{URL: at, SizeBytes: -1, MaxBytes: maxEntryBytes})
	if err != nil {
		return npmEntry{}, c.explain(ctx, at, err)
	}
	var answer struct {
		Dist struct{ Tarball, Integrity string }
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return npmEntry{}, fmt.Errorf("read %s: %w", at, err)
	}
	want, ok := parseIntegrity(answer.Dist.Integrity)
	u, err := url.Parse(answer.Dist.Tarball)
	if !ok || err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return npmEntry{}, fmt.Errorf("read %s: no tarball with a sha512", at)
	}
	if s.want != (digest{}) && want != s.want {
		return npmEntry{}, fmt.Errorf("the registry's %s@%s has %.20s…, not %.20s…", s.pkg, s.version, want, s.want)
	}
	return npmEntry{answer.Dist.Tarball, want}, nil
}

// transport keeps no connections: downloads are few, and each is long.
var transport = func() *http.Transport {
	t := fetch.NewTransport()
	t.DisableKeepAlives = true
	return t
}()

func (c *Cache) files() fetch.Client {
	return fetch.Client{HTTP: &http.Client{Transport: transport}, Stall: c.Stall, Backoff: c.Backoff}
}

func (c *Cache) explain(ctx context.Context, at string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("get %s: %w", at, disk.ExplainFull(c.Dir, err))
}

// get writes the file beside its name, and gives it the name when it is the right one.
func (c *Cache) get(ctx context.Context, at string, want digest, path string, stage *progress.Stage) error {
	err := atomicfile.Fill(path, 0o600, atomicfile.Durable, func(part *os.File) error {
		return c.files().Download(ctx, fetch.File{URL: at, SizeBytes: -1, MaxBytes: maxFileBytes, Digest: want.String()}, part, stage)
	})
	if err != nil {
		return c.explain(ctx, at, err)
	}
	return nil
}
