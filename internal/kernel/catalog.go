package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/store"
)

// initrdFolder lies in Root and holds the initrds made so far.
const initrdFolder = ".initrd"

// Catalog is the set of bundles of this user: records in the store, a folder by id in Root. It is safe for
// concurrent use, also by several processes.
type Catalog struct {
	Root    string
	Store   *store.Store
	Archive debian.Archive // mirror and client for pulls; the zero value is Debian's
	Package string         // that depends on the kernel to take; empty is DefaultPackage
}

// Dir returns the folder of the bundle with that id.
func (c *Catalog) Dir(id string) string { return filepath.Join(c.Root, id) }

// Vmlinux returns the path of the bundle's kernel, an ELF file.
func (c *Catalog) Vmlinux(id string) string { return filepath.Join(c.Dir(id), vmlinuxName) }

// Modules returns the path of the bundle's drive of modules.
func (c *Catalog) Modules(id string) string { return filepath.Join(c.Dir(id), modulesName) }

// Ensure returns the bundle of that name or id, verified, and pulls it when ref is a source without a bundle.
func (c *Catalog) Ensure(ctx context.Context, ref string) (store.Kernel, error) {
	record, err := c.open(ctx, ref)
	if api.CodeOf(err) != api.CodeNotFound {
		return record, err
	}
	if !strings.HasPrefix(ref, sourcePrefix) {
		return store.Kernel{}, err
	}
	return c.locked(ctx, ref, func() (store.Kernel, error) {
		if record, err := c.open(ctx, ref); api.CodeOf(err) != api.CodeNotFound {
			return record, err // somebody else pulled it while this one waited
		}
		return c.pull(ctx, ref)
	})
}

// Pull fetches the source's newest kernel, also when there is one of that name. The same content keeps its bundle
// (a damaged one is replaced); new content takes over the name, and the old bundle stays for the VMs that use it.
func (c *Catalog) Pull(ctx context.Context, source string) (store.Kernel, error) {
	if _, err := suiteOf(source); err != nil {
		return store.Kernel{}, err
	}
	return c.locked(ctx, source, func() (store.Kernel, error) { return c.pull(ctx, source) })
}

// Verify checks the bundle of that id: its files are hashed, unless their stamp is still the trusted one.
func (c *Catalog) Verify(ctx context.Context, id string) error {
	_, err := c.open(ctx, id)
	return err
}

// Initrd returns the path of the initrd that boots the bundle's kernel into the guest binary; see Bundle.Initrd.
// They are kept until the next Sweep.
func (c *Catalog) Initrd(ctx context.Context, id, guestBinary string) (string, error) {
	b, err := Load(c.Dir(id))
	if err != nil {
		return "", err
	}
	return b.Initrd(ctx, guestBinary, filepath.Join(c.Root, initrdFolder))
}

// open returns the record of that name or id when its files are right.
func (c *Catalog) open(ctx context.Context, ref string) (store.Kernel, error) {
	record, err := c.Store.Kernel(ctx, ref)
	if err != nil {
		return store.Kernel{}, err
	}
	stamp, err := c.check(ctx, record)
	if errors.Is(err, disk.ErrDamaged) {
		return store.Kernel{}, api.Errorf(api.CodeUnavailable, "kernel %s: %w", record.Name, err).WithHint("fetch it again: banger kernel pull %s", record.Name)
	}
	if err != nil || stamp == record.Stamp {
		return record, err
	}
	record.Stamp = stamp
	return record, c.Store.PutKernel(ctx, record)
}

func (c *Catalog) check(ctx context.Context, record store.Kernel) (stamp string, err error) {
	b, err := Load(c.Dir(record.ID))
	if err != nil {
		return "", err
	}
	if b.ID() != record.ID {
		return "", fmt.Errorf("%w: manifest in %s is of another bundle", disk.ErrDamaged, b.Dir)
	}
	return disk.Verify(ctx, b.Dir, b.Files, record.Stamp)
}

// List returns all bundles by name.
func (c *Catalog) List(ctx context.Context) ([]api.Kernel, error) {
	records, err := c.Store.Kernels(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.Kernel, len(records))
	for i, r := range records {
		if list[i], err = c.describe(ctx, r); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Inspect returns the record of the bundle of that name or id.
func (c *Catalog) Inspect(ctx context.Context, ref string) (api.Kernel, error) {
	record, err := c.Store.Kernel(ctx, ref)
	if err != nil {
		return api.Kernel{}, err
	}
	return c.describe(ctx, record)
}

func (c *Catalog) describe(ctx context.Context, r store.Kernel) (api.Kernel, error) {
	users, err := c.Store.KernelUsers(ctx, r.ID)
	return api.Kernel{
		ID: r.ID, Name: r.Name, Release: r.Release, Source: r.Source, SizeBytes: r.SizeBytes, CreatedAt: r.CreatedAt,
		Dir: c.Dir(r.ID), UsedBy: users,
	}, err
}

// Remove deletes the bundle of that name or id; one that VMs use is a conflict.
func (c *Catalog) Remove(ctx context.Context, ref string) error {
	record, err := c.Store.Kernel(ctx, ref)
	if err != nil {
		return err
	}
	if err := c.Store.DeleteKernel(ctx, record.ID); err != nil { // first: a folder without a record is swept, the reverse is damage
		return err
	}
	if err := os.RemoveAll(c.Dir(record.ID)); err != nil {
		return fmt.Errorf("remove kernel %s: %w", record.Name, err)
	}
	return nil
}

// Sweep removes what a crash left in Dir: half-made folders and folders without a record. Call it at the daemon's
// start, before anything is pulled. Initrds go too, they are made again in no time.
func (c *Catalog) Sweep(ctx context.Context) error {
	records, err := c.Store.Kernels(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, r := range records {
		known[r.ID] = true
	}
	return disk.SweepFolders(c.Root, known)
}

func (c *Catalog) locked(ctx context.Context, name string, do func() (store.Kernel, error)) (store.Kernel, error) {
	unlock, err := disk.Lock(ctx, c.Root, name)
	if err != nil {
		return store.Kernel{}, err
	}
	defer unlock()
	return do()
}

// pull makes the bundle, publishes its folder and records it. The lock of the name must be held.
func (c *Catalog) pull(ctx context.Context, source string) (_ store.Kernel, err error) {
	folder, err := disk.NewFolder(c.Root)
	if err != nil {
		return store.Kernel{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }() // gone already when it was published
	b, err := Pull(ctx, c.Archive, c.Package, source, folder)
	if err != nil {
		return store.Kernel{}, err
	}
	dir := c.Dir(b.ID())
	if err := disk.Publish(folder, dir); err != nil {
		return store.Kernel{}, fmt.Errorf("publish kernel %s: %w", source, err)
	}
	stamp, err := disk.Stamp(dir, bundleFiles...)
	if err != nil {
		return store.Kernel{}, err
	}
	record := store.Kernel{
		ID: b.ID(), Name: source, Release: b.Release, Source: b.Source, SizeBytes: b.SizeBytes(), Stamp: stamp, CreatedAt: b.CreatedAt,
	}
	return record, c.Store.PutKernel(ctx, record)
}
