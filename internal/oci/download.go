package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"banger/api"
	"banger/internal/compression"
	"banger/internal/fetch"
	"banger/internal/progress"
)

var errPlain = errors.New("only this host's own registries may be used without TLS")

// guard refuses plain HTTP to other hosts, also when a registry redirects to it, and manifests that
// are too long.
type guard struct{ next http.RoundTripper }

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !isLoopback(r.URL.Hostname()) {
		return nil, fetch.Final(fmt.Errorf("%s: %w", r.URL.Host, errPlain))
	}
	response, err := g.next.RoundTrip(r)
	if err == nil && strings.Contains(r.URL.Path, "/manifests/") {
		response.Body = struct {
			io.Reader
			io.Closer
		}{compression.Limit(response.Body, maxManifestBytes), response.Body}
	}
	return response, err
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// checkRedirect refuses to be led from a public registry to an address inside: registries redirect
// to where they keep blobs, and a hostile one would name a service of the local network.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return fetch.Final(errors.New("too many redirects"))
	}
	from, to := via[0].URL.Hostname(), r.URL.Hostname()
	addr, err := netip.ParseAddr(to)
	inside := to == "localhost" ||
		err == nil && (addr.Unmap().IsLoopback() || addr.Unmap().IsPrivate() || addr.Unmap().IsLinkLocalUnicast() || addr.IsUnspecified())
	if inside && from != to && !isLoopback(from) {
		return fetch.Final(fmt.Errorf("redirect from %s to %s, an address inside", from, to))
	}
	return nil
}

// statusOf returns the HTTP status that err is about, or 0.
func statusOf(err error) int {
	if e, ok := errors.AsType[fetch.StatusError](err); ok {
		return int(e)
	}
	if e, ok := errors.AsType[*transport.Error](err); ok {
		return e.StatusCode
	}
	return 0
}

// retry runs do until it succeeds, fails for good or was tried often enough. Each try has
// answerDeadline.
func (s *session) retry(ctx context.Context, what string, do func(context.Context) error) error {
	err := s.files().Retry(ctx, what, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, answerDeadline)
		defer cancel()
		err := do(ctx)
		if status := statusOf(err); status != 0 && !fetch.StatusError(status).Passes() || errors.Is(err, compression.ErrTooLarge) {
			return fetch.Final(err)
		}
		return err
	})
	return wrap(what, err)
}

// wrap says what failed, if it did.
func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// explain turns an error of a registry into one that says what to do. A request that ended keeps
// its own.
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
		return api.Errorf(api.CodeInvalid, "pull %s: access denied: %w", ref.Name(), err).
			WithHint("check the name; for a private image sign in first: docker login %s", registry)
	case status == http.StatusNotFound:
		return api.Errorf(api.CodeNotFound, "no image %s: %w", ref.Name(), err).WithHint("check the name and the tag")
	case status == http.StatusTooManyRequests:
		return api.Errorf(api.CodeUnavailable, "pull %s: the registry limits how often it is asked: %w", ref.Name(), err).
			WithHint("try later, or sign in: docker login %s", registry)
	case errors.Is(err, fetch.ErrContent), errors.Is(err, fetch.ErrTooLarge):
		return api.Errorf(api.CodeUnavailable, "pull %s: %w", ref.Name(), err).
			WithHint("the registry, or a proxy on the way, serves damaged data")
	}
	return api.Errorf(api.CodeUnavailable, "pull %s: %w", ref.Name(), err).WithHint("check the network, and that %s is up", registry)
}

// files gets blobs, as a client that is signed in.
func (s *session) files() fetch.Client {
	return fetch.Client{HTTP: s.client, Stall: s.registry.Stall, Backoff: s.registry.Backoff}
}

func (s *session) blob(d v1.Descriptor) fetch.File {
	u := url.URL{
		Scheme: s.repo.Scheme(),
		Host:   s.repo.RegistryStr(),
		Path:   fmt.Sprintf("/v2/%s/blobs/%s", s.repo.RepositoryStr(), d.Digest),
	}
	return fetch.File{URL: u.String(), SizeBytes: d.Size, Digest: d.Digest.String()}
}

// small reads a blob into memory.
func (s *session) small(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxManifestBytes || d.Digest.Algorithm != "sha256" {
		return nil, refuse("%d bytes, %.80q", d.Size, d.Digest)
	}
	text, err := s.files().Text(ctx, s.blob(d))
	return text, wrap("get blob", err)
}

// download fills an empty file with a blob.
func (s *session) download(ctx context.Context, d v1.Descriptor, file *os.File, stage *progress.Stage) error {
	return wrap(fmt.Sprintf("get layer sha256:%.12s", d.Digest.Hex), s.files().Download(ctx, s.blob(d), file, stage))
}
