package kernel

import (
	"cmp"
	"context"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger/api"
	"banger/internal/artifact"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/store"
)

// initrdFolder lies in Root and holds the initrds made so far.
const initrdFolder = ".initrd"

// Catalog is the set of bundles of this user: records in the store, a folder by id in Root. It is
// safe for concurrent use, also by several processes.
type Catalog struct {
	Root    string
	Store   *store.Store
	Archive debian.Archive // mirror and client for pulls; the zero value is Debian's
	Package string         // that depends on the kernel to take; empty is DefaultPackage
}

func (c *Catalog) repository() artifact.Repository {
	return artifact.Repository{
		Kind: store.KindKernel, Root: c.Root, Store: c.Store,
		Contents: func(dir string) (string, []disk.File, error) {
			b, err := Load(dir)
			return b.ID(), b.Files, err
		},
		Repair: func(r store.Artifact) api.Remedy {
			return api.OpPullKernel.Remedy(api.PullKernel{Source: r.Name}, "fetch or import it again")
		},
	}
}

// Dir returns the folder of the bundle with that id.
func (c *Catalog) Dir(id string) string { return c.repository().Dir(id) }

// Vmlinux returns the path of the bundle's kernel, an ELF file.
func (c *Catalog) Vmlinux(id string) string { return filepath.Join(c.Dir(id), vmlinuxName) }

// Modules returns the path of the bundle's drive of modules, or "" when it has none.
func (c *Catalog) Modules(id string) string {
	path := filepath.Join(c.Dir(id), modulesName)
	if _, err := os.Stat(path); err != nil {
		return "" // a drive that was lost is found missing by Verify
	}
	return path
}

// Ensure returns the bundle of that name or id, verified, and pulls it when ref is a source without
// a bundle.
func (c *Catalog) Ensure(ctx context.Context, ref string) (store.Kernel, error) {
	if !strings.HasPrefix(ref, sourcePrefix) {
		return c.repository().Open(ctx, ref)
	}
	return c.repository().Ensure(ctx, ref, c.filled(func(ctx context.Context, dir string) (Bundle, error) {
		return Pull(ctx, c.Archive, c.Package, ref, dir)
	}))
}

// Pull fetches the source's newest kernel, also when there is one of that name, or the kernel
// behind a URL. The same content keeps its id (a damaged bundle is repaired); new content takes
// over the name, and the old bundle stays for the VMs that use it.
func (c *Catalog) Pull(ctx context.Context, want api.PullKernel) (api.Kernel, error) {
	fill := func(ctx context.Context, dir string) (Bundle, error) {
		return Pull(ctx, c.Archive, c.Package, want.Source, dir)
	}
	name := cmp.Or(want.Name, want.Source)
	if isURL(want.Source) {
		if !sha256Pattern.MatchString(want.SHA256) {
			return api.Kernel{}, api.Errorf(api.CodeInvalid, "%q is not the sha256 of the file behind a URL: 64 hex digits", want.SHA256).
				WithHint("give the one that its maker publishes: --sha256 HEX")
		}
		name = cmp.Or(want.Name, strings.TrimSuffix(path.Base(want.Source), ".deb"))
		fill = func(ctx context.Context, dir string) (Bundle, error) {
			return c.fetch(ctx, want.Source, want.SHA256, dir, Manifest{Name: name, Source: want.Source + ", sha256 " + want.SHA256})
		}
	} else if _, err := suiteOf(want.Source); err != nil {
		return api.Kernel{}, err
	} else if want.SHA256 != "" {
		return api.Kernel{}, api.Errorf(api.CodeInvalid, "%s is verified to the archive's key; a sha256 is for a URL", want.Source)
	}
	record, err := c.repository().Make(ctx, name, c.filled(fill))
	if err != nil {
		return api.Kernel{}, err
	}
	return c.Inspect(ctx, record.ID)
}

// filled is make with the bundle's record.
func (c *Catalog) filled(make func(ctx context.Context, dir string) (Bundle, error)) artifact.Fill {
	return func(ctx context.Context, dir string) (store.Artifact, error) {
		b, err := make(ctx, dir)
		return store.Artifact{ID: b.ID(), Release: b.Release, Source: b.Source, SizeBytes: b.SizeBytes(), CreatedAt: b.CreatedAt}, err
	}
}

// Verify checks the bundle of that id: its files are hashed, unless their stamp is still the
// trusted one.
func (c *Catalog) Verify(ctx context.Context, id string) error {
	_, err := c.repository().Open(ctx, id)
	return err
}

// Initrd returns the path of the initrd that boots the bundle's kernel into the guest binary; see
// Bundle.Initrd. They are kept until the next Sweep.
func (c *Catalog) Initrd(ctx context.Context, id, guestBinary string) (string, error) {
	b, err := Load(c.Dir(id))
	if err != nil {
		return "", err
	}
	return b.Initrd(ctx, guestBinary, filepath.Join(c.Root, initrdFolder))
}

// List returns all bundles by name, those without one last.
func (c *Catalog) List(ctx context.Context) ([]api.Kernel, error) {
	return artifact.Described(ctx, c.repository(), c.describe)
}

// Inspect returns the bundle of that name or id.
func (c *Catalog) Inspect(ctx context.Context, ref string) (api.Kernel, error) {
	record, err := c.Store.Artifact(ctx, store.KindKernel, ref)
	if err != nil {
		return api.Kernel{}, err
	}
	users, err := c.Store.ArtifactUsers(ctx, store.KindKernel, record.ID)
	return c.describe(record, users), err
}

func (c *Catalog) describe(r store.Artifact, users []string) api.Kernel {
	return api.Kernel{
		ID: r.ID, Name: r.Name, Names: r.Names, Release: r.Release, Source: r.Source, SizeBytes: r.SizeBytes, CreatedAt: r.CreatedAt,
		Dir: c.Dir(r.ID), UsedBy: users,
	}
}

// Remove takes the name away, and with the last one the bundle; an id means all of it. One that VMs
// or images use is a conflict.
func (c *Catalog) Remove(ctx context.Context, ref string) error {
	return c.repository().Remove(ctx, ref)
}

// Prune removes the bundles that have neither a name nor a VM nor an image, and says what that
// gives back; with dryRun it only says.
func (c *Catalog) Prune(ctx context.Context, dryRun bool) (api.Pruned, error) {
	return c.repository().Prune(ctx, dryRun)
}

// Drop removes the bundle of that id if it has neither a name nor a user.
func (c *Catalog) Drop(ctx context.Context, id string) error {
	_, err := c.repository().Drop(ctx, id)
	return err
}

// Sweep removes what a crash left in Root: half-made folders and folders without a record. Call it
// at the daemon's start, before anything is pulled. Initrds go too, they are made again in no time.
func (c *Catalog) Sweep(ctx context.Context) error { return c.repository().Sweep(ctx) }
