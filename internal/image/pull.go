package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/oci"
	"banger/internal/store"
)

const (
	// pullDeadline ends a pull from a registry that only just does not stall.
	pullDeadline = 3 * time.Hour

	// layerCacheBytes is what the cache of layers may hold after a pull.
	layerCacheBytes = 10 << 30

	// conversion stands before an image's origin. It changes when the same origin gives another image than before.
	conversion = "1 "
)

// Kinds of sources, as they begin.
const (
	sourceDebian  = "debian"
	sourceUbuntu  = "ubuntu"
	sourceOCI     = "oci"
	sourceArchive = "docker-archive"
	sourceTar     = "tar"
)

// parseSource splits "KIND:REST" and refuses kinds that are not known and files that are not named in full.
func parseSource(source string) (kind, rest string, err error) {
	kind, rest, _ = strings.Cut(source, ":")
	switch kind {
	case sourceDebian, sourceUbuntu:
		_, err = distributionOf(source)
	case sourceOCI:
		_, err = oci.CheckReference(rest)
	case sourceArchive, sourceTar:
		if !filepath.IsAbs(rest) {
			err = api.Errorf(api.CodeInvalid, "image source %q: the file's path is not absolute", source)
		}
	default:
		err = api.Errorf(api.CodeUnsupported, "unknown image source %q", source).
			WithHint("sources are oci:REFERENCE, docker-archive:FILE, tar:FILE, debian:SUITE and ubuntu:SUITE, for example oci:busybox")
	}
	return kind, rest, err
}

// nameOf is the name of an image of which nobody gave one: the source, so that it is found again by it, or the name of
// its file.
func nameOf(kind, source, rest string) string {
	if kind != sourceArchive && kind != sourceTar {
		return source
	}
	name := filepath.Base(rest)
	for _, suffix := range []string{".gz", ".zst", ".xz", ".bz2", ".tgz", ".tar"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// Pull makes the image of a source and gives it the name, or, when it is empty, the source's own. Sources are
// oci:REFERENCE, docker-archive:FILE, tar:FILE (with absolute paths), debian:SUITE and ubuntu:SUITE. Those of a
// distribution are built anew; what else has been pulled already, under whatever name, only gets the name.
func (c *Catalog) Pull(ctx context.Context, source, name string) (store.Image, error) {
	kind, rest, err := parseSource(source)
	if err != nil {
		return store.Image{}, err
	}
	name = cmp.Or(name, nameOf(kind, source, rest))
	if kind == sourceDebian || kind == sourceUbuntu {
		return c.Make(ctx, name, func(ctx context.Context, dir string) (Manifest, error) { return c.bootstrap(ctx, source, dir) })
	}
	return c.convert(ctx, kind, source, rest, name)
}

// convert makes the image of a container image or of a tar, unless there is one of the same.
func (c *Catalog) convert(ctx context.Context, kind, source, rest, name string) (made store.Image, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pullDeadline, fmt.Errorf("image pull took longer than %s", pullDeadline))
	defer cancel()
	var from *oci.Image
	var origin string
	defer func() {
		if from != nil {
			err = errors.Join(err, from.Close())
		}
	}()
	find := func(ctx context.Context) (id string, err error) {
		if from, err = c.open(ctx, kind, rest); err != nil {
			return "", err
		}
		identity, err := from.Identity(ctx)
		if err != nil {
			return "", err
		}
		origin = conversion + identity
		return c.madeOf(ctx, origin)
	}
	return c.shelf().MakeUnless(ctx, name, find, sealed(name, func(ctx context.Context, dir string) (Manifest, error) {
		m := Manifest{
			Source: strings.TrimSpace(source + " " + from.Source), Origin: origin, Architecture: "amd64",
			Defaults: api.ImageDefaults{
				Env: from.Config.Env, WorkDir: from.Config.WorkingDir, User: from.Config.User, Entrypoint: from.Config.Entrypoint, Cmd: from.Config.Cmd,
			},
		}
		err := from.WriteExt4(ctx, RootfsPath(dir), disk.LabelImage)
		_, trimmed := c.Layers.Trim(layerCacheBytes)
		return m, errors.Join(err, trimmed)
	}))
}

// madeOf returns the id of an image of that origin, or "". One that is damaged is passed over: made anew, it is repaired.
func (c *Catalog) madeOf(ctx context.Context, origin string) (string, error) {
	all, err := c.Store.Artifacts(ctx, store.KindImage)
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if m, err := load(c.Dir(a.ID)); err != nil || m.Origin != origin {
			continue
		}
		if _, err := c.shelf().Open(ctx, a.ID); err == nil {
			return a.ID, nil
		}
	}
	return "", context.Cause(ctx)
}

func (c *Catalog) open(ctx context.Context, kind, rest string) (*oci.Image, error) {
	switch kind {
	case sourceOCI:
		return oci.Registry{Cache: c.Layers}.Find(ctx, rest)
	case sourceArchive:
		return oci.OpenArchive(ctx, rest, c.Layers.Dir, oci.Limits{})
	}
	return oci.OpenTar(rest, oci.Limits{})
}

// Defaults returns what the image of that id says of commands in its VMs.
func (c *Catalog) Defaults(id string) (api.ImageDefaults, error) {
	m, err := load(c.Dir(id))
	return m.Defaults, err
}
