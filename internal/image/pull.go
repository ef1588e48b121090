package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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

	// conversion stands before an image's origin. It changes when the same origin gives another
	// image than before.
	conversion = "1 "
)

// Pull makes the image of a source and gives it the name, or, when it is empty, the source's own.
// Those of a distribution are built anew; what else has been pulled already, under whatever name,
// only gets the name.
func (c *Catalog) Pull(ctx context.Context, source Source, name string) (store.Image, error) {
	name = cmp.Or(name, source.name())
	if source.isDistribution() {
		return c.Make(ctx, name, func(ctx context.Context, dir string) (Manifest, error) { return c.bootstrap(ctx, source, dir) })
	}
	return c.convert(ctx, source, name)
}

// convert makes the image of a container image or of a tar, unless there is one of the same.
func (c *Catalog) convert(ctx context.Context, source Source, name string) (made store.Image, err error) {
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
		if from, err = c.open(ctx, source); err != nil {
			return "", err
		}
		identity, err := from.Identity(ctx)
		if err != nil {
			return "", err
		}
		origin = conversion + identity
		return c.madeOf(ctx, origin)
	}
	return c.repository().MakeUnless(ctx, name, find, sealed(name, func(ctx context.Context, dir string) (Manifest, error) {
		m := Manifest{
			Source: strings.TrimSpace(source.String() + " " + from.Source), Origin: origin, Architecture: "amd64",
			Defaults: api.ImageDefaults{
				Env: from.Config.Env, WorkDir: from.Config.WorkingDir, User: from.Config.User,
				Entrypoint: from.Config.Entrypoint, Cmd: from.Config.Cmd,
			},
		}
		err := from.WriteExt4(ctx, RootfsPath(dir), disk.LabelImage)
		_, trimmed := c.Layers.Trim(layerCacheBytes)
		return m, errors.Join(err, trimmed)
	}))
}

// madeOf returns the id of an image of that origin, or "". One that is damaged is passed over: made
// anew, it is repaired.
func (c *Catalog) madeOf(ctx context.Context, origin string) (string, error) {
	all, err := c.Store.Artifacts(ctx, store.KindImage)
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if m, err := load(c.Dir(a.ID)); err != nil || m.Origin != origin {
			continue
		}
		if _, err := c.repository().Open(ctx, a.ID); err == nil {
			return a.ID, nil
		}
	}
	return "", context.Cause(ctx)
}

func (c *Catalog) open(ctx context.Context, source Source) (*oci.Image, error) {
	switch source.Kind {
	case SourceOCI:
		return oci.Registry{Cache: c.Layers}.Find(ctx, source.reference)
	case SourceArchive:
		return oci.OpenArchive(ctx, source.path, c.Layers.Dir, oci.Limits{})
	}
	return oci.OpenTar(source.path, oci.Limits{})
}

// Defaults returns what the image of that id says of commands in its VMs.
func (c *Catalog) Defaults(id string) (api.ImageDefaults, error) {
	m, err := load(c.Dir(id))
	return m.Defaults, err
}
