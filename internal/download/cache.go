package download

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/disk"
	"banger/internal/progress"
)

const (
	maxTries      = 4
	maxFileBytes  = 1 << 30
	maxEntryBytes = 4 << 20 // of the registry's answer about one version
	headerTimeout = 30 * time.Second
	partPrefix    = ".part-"
)

// Cache is a folder of files by their hash. It is safe for concurrent use, also by several processes.
type Cache struct {
	Dir      string
	Registry string        // URL of the npm registry
	Backoff  time.Duration // before the second try; doubled after each; 0 means a second
	Stall    time.Duration // how long no byte may come; 0 means 30 seconds
}

// errStalled is why a request ends that brings no bytes.
var errStalled = errors.New("no data came")

// wrongHash says that a server gave something else than what was asked for.
type wrongHash struct{ got, want digest }

func (e wrongHash) Error() string {
	return fmt.Sprintf("has %s %.16s…, want %.16s…", e.got.algorithm, e.got.hex, e.want.hex)
}

// statusError is an answer other than the file.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("%d %s", int(e), http.StatusText(int(e))) }

// Fetch returns the path of the source's file in the cache, verified, after getting it when it is not there. The stage
// is what the progress calls it.
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
	return path, c.try(ctx, at, func(ctx context.Context) error { return c.get(ctx, at, s.want, path, shown) })
}

// has reports whether the cache holds the file, whole.
func (c *Cache) has(ctx context.Context, want digest) bool {
	file, err := os.Open(filepath.Join(c.Dir, want.fileName()))
	if err != nil {
		return false
	}
	defer file.Close()
	sum := want.new()
	if _, err := io.Copy(sum, reader{ctx, file}); err != nil {
		return false
	}
	return hex.EncodeToString(sum.Sum(nil)) == want.hex
}

// Sweep removes what a crash left half-made. Call it while nobody fetches.
func (c *Cache) Sweep() error {
	parts, err := filepath.Glob(filepath.Join(c.Dir, partPrefix+"*"))
	errs := []error{err}
	for _, part := range parts {
		errs = append(errs, os.Remove(part))
	}
	return errors.Join(errs...)
}

// npmEntry is where the registry has a version of a package, and its hash.
type npmEntry struct {
	url  string
	want digest
}

func (c *Cache) npmEntry(ctx context.Context, s Source) (npmEntry, error) {
	at := strings.TrimRight(c.Registry, "/") + "/" + url.PathEscape(s.pkg) + "/" + s.version
	var answer struct {
		Dist struct{ Tarball, Integrity string }
	}
	err := c.try(ctx, at, func(ctx context.Context) error {
		body, _, err := open(ctx, at)
		if err != nil {
			return err
		}
		defer body.Close()
		return json.NewDecoder(io.LimitReader(body, maxEntryBytes)).Decode(&answer)
	})
	if err != nil {
		return npmEntry{}, err
	}
	want, ok := parseIntegrity(answer.Dist.Integrity)
	u, err := url.Parse(answer.Dist.Tarball)
	if !ok || err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return npmEntry{}, fmt.Errorf("read %s: no tarball with a sha512", at)
	}
	if s.want != (digest{}) && want != s.want {
		return npmEntry{}, fmt.Errorf("the registry's %s@%s %w", s.pkg, s.version, wrongHash{want, s.want})
	}
	return npmEntry{answer.Dist.Tarball, want}, nil
}

// try does something over the net, again after a while when the fault may pass: no connection, a stall, a busy server.
func (c *Cache) try(ctx context.Context, at string, do func(context.Context) error) error {
	wait := c.Backoff
	if wait == 0 {
		wait = time.Second
	}
	for try := 1; ; try++ {
		err := c.unlessStalled(ctx, do)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if try == maxTries || !passing(err) {
			return fmt.Errorf("get %s: %w", at, disk.ExplainFull(c.Dir, err))
		}
		select {
		case <-time.After(wait << (try - 1)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stallKey finds the timer that unlessStalled has set, for those who read.
type stallKey struct{}

func (c *Cache) unlessStalled(ctx context.Context, do func(context.Context) error) error {
	limit := c.Stall
	if limit == 0 {
		limit = 30 * time.Second
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(limit, func() { cancel(errStalled) })
	defer timer.Stop()
	moved := func() { timer.Reset(limit) }
	err := do(context.WithValue(ctx, stallKey{}, moved))
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("%w for %s", errStalled, limit)
	}
	return err
}

func passing(err error) bool {
	if status, ok := errors.AsType[statusError](err); ok {
		return status >= 500 || status == http.StatusTooManyRequests
	}
	_, wrong := errors.AsType[wrongHash](err)
	_, local := errors.AsType[*os.PathError](err) // this host's disk refused
	return !wrong && !local && !errors.Is(err, errTooLarge)
}

var errTooLarge = fmt.Errorf("is larger than %d MiB", maxFileBytes>>20)

var client = &http.Client{Transport: &http.Transport{
	Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: headerTimeout, DisableKeepAlives: true,
}}

func open(ctx context.Context, at string) (io.ReadCloser, int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the URL stands in the caller's error
		}
		return nil, 0, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, 0, errors.Join(statusError(response.StatusCode), response.Body.Close())
	}
	return response.Body, response.ContentLength, nil
}

// get writes the file beside its name, and gives it the name when it is the right one.
func (c *Cache) get(ctx context.Context, at string, want digest, path string, stage *progress.Stage) (err error) {
	body, size, err := open(ctx, at)
	if err != nil {
		return err
	}
	defer body.Close()
	stage.SetTotal(max(size, 0))
	part, err := os.CreateTemp(c.Dir, partPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	sum := want.new()
	n, err := io.Copy(io.MultiWriter(part, sum), io.LimitReader(stage.Reader(reader{ctx, body}), maxFileBytes+1))
	if err == nil && n > maxFileBytes {
		err = errTooLarge
	}
	if got := (digest{want.algorithm, hex.EncodeToString(sum.Sum(nil))}); err == nil && got != want {
		err = wrongHash{got, want}
	}
	if err = errors.Join(err, part.Sync(), part.Close()); err != nil {
		return err
	}
	return os.Rename(part.Name(), path)
}

// reader ends with its context, and tells unlessStalled that bytes come.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.r.Read(p)
	if moved, ok := r.ctx.Value(stallKey{}).(func()); ok && n > 0 {
		moved()
	}
	return n, err
}
