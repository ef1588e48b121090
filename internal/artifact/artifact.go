// Package artifact keeps what VMs are made of and share: images and kernel bundles.
//
// An artifact is a folder that is made once, named by its content and never written again, with a
// record in the store and any number of names. It is filled in a folder that nobody sees, moved
// into place in one step and recorded last: a crash at any point leaves either the whole artifact
// or a folder that the next Sweep removes.
//
// What lies in a folder is the business of packages image and kernel, which stand on a Repository
// each.
package artifact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/store"
)

// Repository is where the artifacts of one kind stand: a folder by id below Root. It is safe for
// concurrent use, also by several processes.
type Repository struct {
	Kind  *store.Kind
	Root  string
	Store *store.Store
	// Contents reads the manifest in a folder: the id that it claims and its hashed files. A
	// manifest that is missing or malformed is disk.ErrDamaged.
	Contents func(dir string) (id string, files []disk.File, err error)
	// Repair says what to do about a damaged artifact.
	Repair func(store.Artifact) api.Remedy
}

// Fill makes an artifact in dir, an empty folder, and returns its record. Name and Stamp are the
// repository's to fill in.
type Fill func(ctx context.Context, dir string) (store.Artifact, error)

// namePattern is what a name may look like: a source such as debian:trixie or
// oci:localhost:5000/a/b:tag, or a word.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$`)

// idPattern is what an id looks like; a name that does would hide an artifact.
var idPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// CheckName refuses what cannot be the name of an artifact.
func CheckName(name string) error {
	if !namePattern.MatchString(name) || idPattern.MatchString(name) {
		return api.Errorf(api.CodeInvalid, "%.200q cannot be a name", name).
			WithHint("a name has letters, digits and any of . _ : / @ + -, begins with a letter or a digit, and has 200 of them at most")
	}
	return nil
}

// Dir returns the folder of the artifact with that id.
func (r Repository) Dir(id string) string { return filepath.Join(r.Root, id) }

// Open returns the artifact of that name or id when its files are right: they are hashed, unless
// their stamp is still the trusted one.
func (r Repository) Open(ctx context.Context, ref string) (store.Artifact, error) {
	a, err := r.Store.Artifact(ctx, r.Kind, ref)
	if err != nil {
		return store.Artifact{}, err
	}
	stamp, err := r.check(ctx, a)
	if errors.Is(err, disk.ErrDamaged) {
		return store.Artifact{}, api.Errorf(api.CodeUnavailable, "%s %s: %w", r.Kind, a.Name, err).WithRemedy(r.Repair(a))
	}
	if err != nil || stamp == a.Stamp {
		return a, err
	}
	a.Stamp = stamp
	return a, r.Store.SetStamp(ctx, r.Kind, a.ID, stamp)
}

func (r Repository) check(ctx context.Context, a store.Artifact) (stamp string, err error) {
	dir := r.Dir(a.ID)
	id, files, err := r.Contents(dir)
	if err != nil {
		return "", err
	}
	if id != a.ID {
		return "", fmt.Errorf("%w: manifest in %s is of another %s", disk.ErrDamaged, dir, r.Kind)
	}
	return disk.Verify(ctx, dir, files, a.Stamp)
}

// Ensure returns the artifact of that name or id, as Open does, and makes it when there is none.
func (r Repository) Ensure(ctx context.Context, ref string, fill Fill) (store.Artifact, error) {
	a, err := r.Open(ctx, ref)
	if api.CodeOf(err) != api.CodeNotFound {
		return a, err
	}
	unlock, err := disk.Lock(ctx, r.Root, ref)
	if err != nil {
		return store.Artifact{}, err
	}
	defer unlock()
	if a, err := r.Open(ctx, ref); api.CodeOf(err) != api.CodeNotFound {
		return a, err // somebody else made it while this one waited
	}
	return r.make(ctx, ref, fill)
}

// Find returns the id of an artifact that is what would be made, or "" when there is none.
type Find func(ctx context.Context) (id string, err error)

// Make makes an artifact and gives it the name, which moves to it from another one; an empty name
// gives none. Two that make the same name take turns; the last one has the name. The same content
// replaces its folder (a damaged one is repaired by that) and keeps its other names. On an error
// nothing of it is left.
func (r Repository) Make(ctx context.Context, name string, fill Fill) (store.Artifact, error) {
	return r.MakeUnless(ctx, name, func(context.Context) (string, error) { return "", nil }, fill)
}

// MakeUnless does as Make does, but gives the name to what find finds, if it does; nothing is made
// then.
func (r Repository) MakeUnless(ctx context.Context, name string, find Find, fill Fill) (store.Artifact, error) {
	if name != "" {
		if err := CheckName(name); err != nil {
			return store.Artifact{}, err
		}
	}
	unlock, err := disk.Lock(ctx, r.Root, name)
	if err != nil {
		return store.Artifact{}, err
	}
	defer unlock()
	id, err := find(ctx)
	if err != nil {
		return store.Artifact{}, err
	}
	if id != "" {
		if a, err := r.Tag(ctx, id, name); api.CodeOf(err) != api.CodeNotFound { // it may be removed meanwhile
			return a, err
		}
	}
	return r.make(ctx, name, fill)
}

// make does it; the lock of the name must be held.
func (r Repository) make(ctx context.Context, name string, fill Fill) (_ store.Artifact, err error) {
	folder, release, err := disk.NewFolder(r.Root)
	if err != nil {
		return store.Artifact{}, err
	}
	// when it has its record, so that no sweep finds it without one
	defer release()
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }() // gone already when it was published
	a, err := fill(ctx, folder)
	if err != nil {
		return store.Artifact{}, err
	}
	a.Name = name
	return r.publish(ctx, folder, a)
}

// publish moves the folder into place and records it. The lock of the id keeps a removal of the
// same content away; it is always taken after that of a name.
func (r Repository) publish(ctx context.Context, folder string, a store.Artifact) (store.Artifact, error) {
	unlock, err := disk.Lock(ctx, r.Root, a.ID)
	if err != nil {
		return store.Artifact{}, err
	}
	defer unlock()
	_, files, err := r.Contents(folder)
	if err != nil {
		return store.Artifact{}, err
	}
	dir := r.Dir(a.ID)
	if err := disk.Publish(folder, dir); err != nil {
		return store.Artifact{}, fmt.Errorf("publish %s %s: %w", r.Kind, a.Name, err)
	}
	a.Stamp, err = disk.StampOf(dir, files)
	if err == nil {
		err = r.Store.PutArtifact(ctx, r.Kind, a)
	}
	if err != nil {
		// Without a record of before, nobody knows the folder.
		if _, known := r.Store.Artifact(ctx, r.Kind, a.ID); api.CodeOf(known) == api.CodeNotFound {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return store.Artifact{}, err
	}
	return r.Store.Artifact(ctx, r.Kind, a.ID)
}
