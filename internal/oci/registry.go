package oci

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/fetch"
	"banger/internal/progress"
)

const (
	maxManifestBytes = 4 << 20 // of a manifest, an index or a configuration
	maxLayers        = 500

	answerDeadline     = time.Minute // for a manifest, a configuration or a token
	credentialDeadline = 30 * time.Second
)

// Registry finds images. The zero value of each optional field means its default.
type Registry struct {
	Cache *Cache

	Keychain  authn.Keychain    // default: Docker's configuration and its helpers, or Podman's
	Transport http.RoundTripper // default: one that honours the proxy variables
	Stall     time.Duration     // see fetch.Client
	Backoff   time.Duration     // likewise
	Limits    Limits
}

// Reference is the name of an image in a registry.
type Reference struct{ parsed name.Reference }

// ParseReference reads the name of an image in a registry, which may be a short one.
func ParseReference(text string) (Reference, error) {
	parsed, err := name.ParseReference(text)
	if err != nil {
		return Reference{}, api.Errorf(api.CodeInvalid, "bad image reference: %w", err).
			WithHint("references look like debian, ghcr.io/owner/app:tag or localhost:5000/app@sha256:…")
	}
	return Reference{parsed}, nil
}

// String is the full name: "busybox" is "index.docker.io/library/busybox:latest".
func (r Reference) String() string { return r.parsed.Name() }

// Find reads an image's manifest and configuration. Its layers come with Fetch, or with the first
// use. Registries are spoken to over TLS, except on this host itself.
func (r Registry) Find(ctx context.Context, ref Reference) (*Image, error) {
	r = r.withDefaults()
	s := &session{registry: r, repo: ref.parsed.Context()}
	image, layers, err := s.find(ctx, ref.parsed)
	if err != nil {
		s.hangUp()
		return nil, s.explain(ctx, ref.parsed, err)
	}
	image.hangUp = s.hangUp
	image.fetch = func(ctx context.Context) error { return s.explain(ctx, ref.parsed, s.fetch(ctx, image, layers)) }
	return image, nil
}

func (r Registry) withDefaults() Registry {
	if r.Keychain == nil {
		r.Keychain = authn.DefaultKeychain
	}
	if r.Transport == nil {
		r.Transport = fetch.NewTransport()
	}
	r.Limits = r.Limits.withDefaults()
	return r
}

// find returns the image without its layers, and what they are, checked.
func (s *session) find(ctx context.Context, ref name.Reference) (*Image, []layer, error) {
	stage := progress.Start(ctx, "read manifest")
	manifest, digest, config, err := s.describe(ctx, ref)
	stage.End(err)
	if err != nil {
		return nil, nil, err
	}
	image := &Image{
		Source: fmt.Sprintf("%s@%s", s.repo.Name(), digest), config: manifest.Config.Digest.Hex, whiteouts: true, limits: s.registry.Limits,
	}
	var diffIDs []string
	if image.Config, diffIDs, err = configOf(config); err != nil {
		return nil, nil, err
	}
	if err := checkLayers(manifest.Layers, diffIDs, s.registry.Limits); err != nil {
		return nil, nil, err
	}
	layers := make([]layer, len(manifest.Layers))
	for n, d := range manifest.Layers {
		layers[n] = layer{size: d.Size, digest: d.Digest.Hex, diffID: diffIDs[n], forget: s.registry.Cache.forget}
	}
	return image, layers, nil
}

// fetch opens the image's layers; those that are not cached are fetched, several at a time, each as
// a progress stage.
func (s *session) fetch(ctx context.Context, image *Image, layers []layer) error {
	opened, err := s.fetchLayers(ctx, layers)
	image.files = slices.DeleteFunc(slices.Clone(opened), func(f *os.File) bool { return f == nil })
	if err != nil {
		return err
	}
	byDigest := map[string]*os.File{}
	for n, l := range layers {
		if opened[n] != nil {
			byDigest[l.digest] = opened[n]
		}
		l.blob = byDigest[l.digest]
		image.layers = append(image.layers, l)
	}
	return nil
}

// fetchLayers returns an open file for each layer, nil for one that came before in the list. It
// returns what it opened also on an error.
func (s *session) fetchLayers(ctx context.Context, layers []layer) ([]*os.File, error) {
	cache := s.registry.Cache
	opened := make([]*os.File, len(layers))
	seen := map[string]bool{}
	var todo []int
	var missing int64
	for n, l := range layers {
		if !seen[l.digest] {
			seen[l.digest] = true
			todo = append(todo, n)
			if _, err := os.Stat(cache.path(l.digest)); err != nil {
				missing += l.size
			}
		}
	}
	if missing > 0 {
		if err := os.MkdirAll(cache.Dir, 0o755); err != nil {
			return opened, fmt.Errorf("make layer cache: %w", err)
		}
		if err := disk.RequireFree(cache.Dir, missing); err != nil {
			return opened, err
		}
	}
	return opened, fetchAll(ctx, len(todo), func(ctx context.Context, k int) (err error) {
		l := layers[todo[k]]
		stage := progress.Start(ctx, "layer "+l.digest[:12])
		defer func() { stage.End(err) }()
		stage.SetTotal(l.size)
		file, cached, err := cache.get(ctx, l.digest, l.size, func(file *os.File) error {
			return s.download(ctx, v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: l.digest}, Size: l.size}, file, stage)
		})
		if cached {
			stage.Detail("cached")
		}
		opened[todo[k]] = file
		return err
	})
}

// checkLayers refuses layers that can not be root filesystems', before any is fetched.
func checkLayers(layers []v1.Descriptor, diffIDs []string, limits Limits) error {
	switch {
	case len(layers) == 0:
		return refuse("it has no layers")
	case len(layers) > maxLayers:
		return refuse("it has %d layers", len(layers))
	case len(layers) != len(diffIDs):
		return refuse("it has %d layers, its configuration %d", len(layers), len(diffIDs))
	}
	var sum int64
	for _, d := range layers {
		switch {
		case d.Digest.Algorithm != "sha256" || !isDigest(d.Digest.Hex):
			return refuse("layer %.80q has an unknown hash", d.Digest)
		case !d.MediaType.IsDistributable() || !d.MediaType.IsLayer():
			return api.Errorf(
				api.CodeUnsupported,
				"layer sha256:%.12s is a %.100q: not one of a Linux root filesystem",
				d.Digest.Hex,
				d.MediaType,
			)
		case d.Size < 0 || d.Size > limits.Bytes:
			return refuse("layer sha256:%.12s has %d bytes", d.Digest.Hex, d.Size)
		}
		if sum += d.Size; sum > limits.Bytes {
			return refuse("its layers have more than %d GiB", limits.Bytes>>30)
		}
	}
	return nil
}

// pick returns the manifest for this platform.
func pick(index *v1.IndexManifest) (v1.Descriptor, error) {
	var have []string
	for _, d := range index.Manifests {
		if d.Platform == nil && len(index.Manifests) == 1 { // says nothing: its configuration will
			return d, nil
		}
		if d.Platform == nil || d.Platform.OS == "unknown" { // attestations stand beside the images
			continue
		}
		if d.Platform.OS == platform.OS && d.Platform.Architecture == platform.Architecture {
			return d, nil
		}
		have = append(have, d.Platform.String())
	}
	return v1.Descriptor{}, api.Errorf(api.CodeUnsupported, "image is not made for %s, only for %.200q", platform, have)
}

// session is the conversation with a registry about one repository.
type session struct {
	registry Registry
	repo     name.Repository
	client   *http.Client      // signed in; nil before connect
	wrapped  http.RoundTripper // the client's
}

// hangUp ends connections that wait to be used again.
func (s *session) hangUp() {
	if t, ok := s.registry.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// connect finds out how the registry wants to be spoken to, and signs in where it asks for that.
func (s *session) connect(ctx context.Context) error {
	auth, err := s.credentials(ctx)
	if err != nil {
		return err
	}
	return s.retry(ctx, "reach registry", func(ctx context.Context) error {
		s.wrapped, err = transport.NewWithContext(
			ctx,
			s.repo.Registry,
			auth,
			guard{s.registry.Transport},
			[]string{s.repo.Scope(transport.PullScope)},
		)
		s.client = &http.Client{Transport: s.wrapped, CheckRedirect: checkRedirect}
		return err
	})
}

// credentials asks Docker's configuration, and through it perhaps a helper program, which can not
// be cancelled: one that hangs is left behind.
func (s *session) credentials(ctx context.Context) (authn.Authenticator, error) {
	type answer struct {
		auth authn.Authenticator
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		auth, err := authn.Resolve(ctx, s.registry.Keychain, s.repo)
		answers <- answer{auth, err}
	}()
	deadline := time.NewTimer(credentialDeadline)
	defer deadline.Stop()
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, api.Errorf(api.CodeInvalid, "read credentials for %s: %w", s.repo.RegistryStr(), a.err).
				WithHint("check ~/.docker/config.json and the helper it names")
		}
		return a.auth, nil
	case <-deadline.C:
		return nil, api.Errorf(api.CodeTimeout, "read credentials for %s: no answer", s.repo.RegistryStr()).
			WithHint("check the credential helper that ~/.docker/config.json names")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// describe returns the image's manifest for this platform, its digest and its configuration.
func (s *session) describe(ctx context.Context, ref name.Reference) (*v1.Manifest, string, *v1.ConfigFile, error) {
	if err := s.connect(ctx); err != nil {
		return nil, "", nil, err
	}
	desc, err := s.manifest(ctx, ref)
	if err != nil {
		return nil, "", nil, err
	}
	if desc.MediaType.IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(desc.Manifest))
		if err != nil {
			return nil, "", nil, refuse("read index: %w", err)
		}
		child, err := pick(index)
		if err != nil {
			return nil, "", nil, err
		}
		if desc, err = s.manifest(ctx, s.repo.Digest(child.Digest.String())); err != nil {
			return nil, "", nil, err
		}
	}
	manifest, err := parseManifest(desc.Manifest)
	if err != nil {
		return nil, "", nil, err
	}
	text, err := s.small(ctx, manifest.Config)
	if err != nil {
		return nil, "", nil, fmt.Errorf("read configuration: %w", err)
	}
	config, err := parseConfig(text)
	return manifest, desc.Digest.String(), config, err
}

func (s *session) manifest(ctx context.Context, ref name.Reference) (desc *remote.Descriptor, err error) {
	err = s.retry(ctx, "read manifest", func(ctx context.Context) error {
		desc, err = remote.Get(ref, remote.WithContext(ctx), remote.WithTransport(s.wrapped))
		return err
	})
	return desc, err
}

func parseManifest(text []byte) (*v1.Manifest, error) {
	m, err := v1.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return nil, refuse("read manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return nil, api.Errorf(api.CodeUnsupported, "image has a manifest of version %d: only 2 is known", m.SchemaVersion).
			WithHint("push it again with a newer tool")
	}
	if m.Config.MediaType != types.DockerConfigJSON && m.Config.MediaType != types.OCIConfigJSON {
		return nil, api.Errorf(api.CodeUnsupported, "not an image of a root filesystem: its configuration is a %.100q", m.Config.MediaType)
	}
	return m, nil
}

func parseConfig(text []byte) (*v1.ConfigFile, error) {
	config, err := v1.ParseConfigFile(bytes.NewReader(text))
	if err != nil {
		return nil, refuse("read configuration: %w", err)
	}
	return config, nil
}
