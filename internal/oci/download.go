package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"banger/api"
	"banger/internal/progress"
)

const maxTries = 4

var (
	errStalled = errors.New("download stalled")
	errDigest  = errors.New("it is not what its digest says")
	errPlain   = errors.New("only this host's own registries may be used without TLS")
)

// newTransport honours the proxy variables and has deadlines for all but bodies, which are watched by who reads them.
func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       10 * time.Second,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // sizes and ranges are those of the blobs
	}
}

// guard refuses plain HTTP to other hosts, also when a registry redirects to it, and manifests that are too long.
type guard struct{ next http.RoundTripper }

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !isLoopback(r.URL.Hostname()) {
		return nil, fmt.Errorf("%s: %w", r.URL.Host, errPlain)
	}
	response, err := g.next.RoundTrip(r)
	if err == nil && strings.Contains(r.URL.Path, "/manifests/") {
		response.Body = struct {
			io.Reader
			io.Closer
		}{&limitedReader{response.Body, maxManifestBytes}, response.Body}
	}
	return response, err
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// checkRedirect refuses to be led from a public registry to an address inside: registries redirect to where they keep
// blobs, and a hostile one would name a service of the local network.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("too many redirects")
	}
	from, to := via[0].URL.Hostname(), r.URL.Hostname()
	addr, err := netip.ParseAddr(to)
	inside := to == "localhost" || err == nil && (addr.Unmap().IsLoopback() || addr.Unmap().IsPrivate() || addr.Unmap().IsLinkLocalUnicast() || addr.IsUnspecified())
	if inside && from != to && !isLoopback(from) {
		return fmt.Errorf("redirect from %s to %s, an address inside", from, to)
	}
	return nil
}

// statusError is an answer of a registry that is no blob.
type statusError struct{ status int }

func (e *statusError) Error() string {
	return fmt.Sprintf("registry answers %d %s", e.status, http.StatusText(e.status))
}

// statusOf returns the HTTP status that err is about, or 0.
func statusOf(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	if e, ok := errors.AsType[*transport.Error](err); ok {
		return e.StatusCode
	}
	return 0
}

// passing reports whether another try may succeed: the registry is busy or the line broke.
func passing(err error) bool {
	switch status := statusOf(err); {
	case status != 0:
		return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status == http.StatusRequestedRangeNotSatisfiable
	case errors.Is(err, errPlain), errors.Is(err, errDigest), errors.Is(err, errBomb), errors.Is(err, syscall.ECONNREFUSED):
		return false
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return false
	}
	_, local := errors.AsType[*os.PathError](err)
	_, onTheWay := errors.AsType[net.Error](err)
	return !local && (onTheWay || errors.Is(err, errStalled) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF))
}

// retry runs do until it succeeds, fails for good or was tried often enough. Each try has answerDeadline.
func (s *session) retry(ctx context.Context, what string, do func(context.Context) error) error {
	return s.again(ctx, what, func() error {
		ctx, cancel := context.WithTimeout(ctx, answerDeadline)
		defer cancel()
		return do(ctx)
	})
}

func (s *session) again(ctx context.Context, what string, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if try == maxTries || !passing(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		pause := time.NewTimer(s.registry.Backoff << (try - 1))
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}

// explain turns an error of a registry into one that says what to do. A request that ended keeps its own.
func (s *session) explain(ctx context.Context, ref name.Reference, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, ok := errors.AsType[*api.Error](err); ok || err == nil {
		return err
	}
	registry := s.repo.RegistryStr()
	switch status := statusOf(err); {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return api.Errorf(api.CodeInvalid, "pull %s: access denied: %w", ref.Name(), err).WithHint("check the name; for a private image sign in first: docker login %s", registry)
	case status == http.StatusNotFound:
		return api.Errorf(api.CodeNotFound, "no image %s: %w", ref.Name(), err).WithHint("check the name and the tag")
	case status == http.StatusTooManyRequests:
		return api.Errorf(api.CodeUnavailable, "pull %s: the registry limits how often it is asked: %w", ref.Name(), err).WithHint("try later, or sign in: docker login %s", registry)
	case errors.Is(err, errDigest):
		return api.Errorf(api.CodeUnavailable, "pull %s: %w", ref.Name(), err).WithHint("the registry, or a proxy on the way, serves damaged data")
	}
	return api.Errorf(api.CodeUnavailable, "pull %s: %w", ref.Name(), err).WithHint("check the network, and that %s is up", registry)
}

func (s *session) blobURL(d v1.Descriptor) string {
	u := url.URL{Scheme: s.repo.Scheme(), Host: s.repo.RegistryStr(), Path: fmt.Sprintf("/v2/%s/blobs/%s", s.repo.RepositoryStr(), d.Digest)}
	return u.String()
}

// get asks for a blob from offset have on. An answer other than 200 or a fitting 206 is an error.
func (s *session) get(ctx context.Context, d v1.Descriptor, have int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.blobURL(d), nil)
	if err != nil {
		return nil, err
	}
	if have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", have, d.Size-1))
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	from := fmt.Sprintf("bytes %d-", have)
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusPartialContent && strings.HasPrefix(response.Header.Get("Content-Range"), from) {
		return response, nil
	}
	return nil, errors.Join(&statusError{response.StatusCode}, response.Body.Close())
}

// small reads a blob into memory.
func (s *session) small(ctx context.Context, d v1.Descriptor) (text []byte, err error) {
	if d.Size < 0 || d.Size > maxManifestBytes || d.Digest.Algorithm != "sha256" {
		return nil, refuse("%d bytes, %.80q", d.Size, d.Digest)
	}
	err = s.retry(ctx, "get blob", func(ctx context.Context) error {
		response, err := s.get(ctx, d, 0)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if text, err = io.ReadAll(io.LimitReader(response.Body, d.Size+1)); err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		return check(d, int64(len(text)), hex.EncodeToString(sum[:]), false)
	})
	return text, err
}

// check compares what arrived with what was announced. A wrong digest is final, unless the blob was put together from
// several answers.
func check(d v1.Descriptor, size int64, sum string, resumed bool) error {
	switch {
	case size < d.Size:
		return fmt.Errorf("%w: %d bytes of %d", io.ErrUnexpectedEOF, size, d.Size)
	case size == d.Size && sum == d.Digest.Hex:
		return nil
	case resumed:
		return fmt.Errorf("%w after going on with it", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w: %d bytes with sha256 %.12s, want %d with %.12s", errDigest, size, sum, d.Size, d.Digest.Hex)
}

// download fills an empty file with a blob. A broken-off download goes on where it was.
func (s *session) download(ctx context.Context, d v1.Descriptor, file *os.File, stage *progress.Stage) error {
	return s.again(ctx, fmt.Sprintf("get layer sha256:%.12s", d.Digest.Hex), func() error { return s.attempt(ctx, d, file, stage) })
}

// attempt is one request. What arrived before a fault stays in the file for the next one.
func (s *session) attempt(ctx context.Context, d v1.Descriptor, file *os.File, stage *progress.Stage) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(s.registry.Stall, func() { cancel(errStalled) })
	defer stall.Stop()

	sum := sha256.New()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	have, err := io.Copy(sum, file)
	if err != nil {
		return err
	}
	response, err := s.get(ctx, d, have)
	if err != nil {
		if statusOf(err) == http.StatusRequestedRangeNotSatisfiable { // it can not go on: the next try starts over
			stage.Add(-have)
			err = errors.Join(err, restart(file))
		}
		return stalledOr(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusPartialContent && have > 0 { // the registry starts over: so do we
		sum.Reset()
		stage.Add(-have)
		have = 0
		if err := restart(file); err != nil {
			return err
		}
	}
	body := &watchedReader{r: io.LimitReader(response.Body, d.Size-have+1), alive: func() { stall.Reset(s.registry.Stall) }}
	n, err := io.Copy(io.MultiWriter(file, sum), stage.Reader(body))
	if err != nil {
		return stalledOr(ctx, err)
	}
	if err := check(d, have+n, hex.EncodeToString(sum.Sum(nil)), have > 0); err != nil {
		if have+n >= d.Size { // wrong, not short: nothing to go on from
			stage.Add(-have - n)
			return errors.Join(err, restart(file))
		}
		return err
	}
	return nil
}

// stalledOr tells a stall from other errors of a broken connection.
func stalledOr(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

func restart(file *os.File) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return file.Truncate(0)
}

// watchedReader says that it is alive whenever bytes arrive.
type watchedReader struct {
	r     io.Reader
	alive func()
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.alive()
	}
	return n, err
}
