package artifact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/store"
)

// Tag gives the artifact of that name or id one more name, which moves to it from another one.
func (r Repository) Tag(ctx context.Context, ref, name string) (store.Artifact, error) {
	if err := CheckName(name); err != nil {
		return store.Artifact{}, err
	}
	a, err := r.Store.Artifact(ctx, r.Kind, ref)
	if err != nil {
		return store.Artifact{}, err
	}
	if err := r.Store.Tag(ctx, r.Kind, a.ID, name); err != nil {
		return store.Artifact{}, err
	}
	return r.Store.Artifact(ctx, r.Kind, a.ID)
}

// Remove takes a name away, and with the last name the artifact; an id means all of it. One that is
// in use is a conflict that names the users.
func (r Repository) Remove(ctx context.Context, ref string) error {
	a, err := r.Store.Artifact(ctx, r.Kind, ref)
	if err != nil {
		return err
	}
	unlock, err := disk.Lock(ctx, r.Root, a.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if a, err = r.Store.Artifact(ctx, r.Kind, a.ID); err != nil { // once more: it may have got or lost a name meanwhile
		return err
	}
	if ref != a.ID && slices.Contains(a.Names, ref) && len(a.Names) > 1 {
		return r.Store.Untag(ctx, r.Kind, ref)
	}
	return r.remove(ctx, a)
}

// remove deletes record and folder; the lock of the id must be held. The record goes first: a
// folder without a record is swept, the reverse is damage.
func (r Repository) remove(ctx context.Context, a store.Artifact) error {
	if err := r.Store.DeleteArtifact(ctx, r.Kind, a.ID); err != nil {
		return err
	}
	if err := os.RemoveAll(r.Dir(a.ID)); err != nil {
		return fmt.Errorf("remove %s %s: %w", r.Kind, a.Name, err)
	}
	return nil
}

// Prune removes the artifacts that have neither a name nor a user, and says what that gives back;
// with dryRun it only says.
func (r Repository) Prune(ctx context.Context, dryRun bool) (api.Pruned, error) {
	pruned := api.Pruned{Removed: []string{}, DryRun: dryRun}
	all, err := r.Store.Artifacts(ctx, r.Kind)
	if err != nil {
		return pruned, err
	}
	for _, a := range all {
		users, err := r.Store.ArtifactUsers(ctx, r.Kind, a.ID)
		if err != nil {
			return pruned, err
		}
		if len(a.Names) > 0 || len(users) > 0 {
			continue
		}
		bytes := r.OwnBytes(a.ID)
		removed := dryRun
		if !dryRun {
			if removed, err = r.Drop(ctx, a.ID); err != nil {
				return pruned, err
			}
		}
		if removed {
			pruned.Removed, pruned.FreedBytes = append(pruned.Removed, a.ID), pruned.FreedBytes+bytes
		}
	}
	return pruned, nil
}

// OwnBytes returns what the removal of that artifact gives back. What cannot be read counts
// nothing.
func (r Repository) OwnBytes(id string) int64 {
	var sum int64
	entries, _ := os.ReadDir(r.Dir(id))
	for _, entry := range entries {
		if usage, err := disk.UsageOf(filepath.Join(r.Dir(id), entry.Name())); err == nil && entry.Type().IsRegular() {
			sum += usage.OwnBytes
		}
	}
	return sum
}

// Drop removes the artifact of that id if it has neither a name nor a user, and reports whether it
// did.
func (r Repository) Drop(ctx context.Context, id string) (bool, error) {
	unlock, err := disk.Lock(ctx, r.Root, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	a, err := r.Store.Artifact(ctx, r.Kind, id)
	switch {
	case api.CodeOf(err) == api.CodeNotFound:
		return false, nil // somebody else removed it
	case err != nil:
		return false, err
	case len(a.Names) > 0:
		return false, nil
	}
	if err := r.remove(ctx, a); err != nil {
		if api.CodeOf(err) == api.CodeConflict {
			return false, nil // it is used
		}
		return false, err
	}
	return true, nil
}

// Sweep removes what a crash left: half-made folders, and folders without a record. What another
// process is still making stays.
func (r Repository) Sweep(ctx context.Context) error {
	all, err := r.Store.Artifacts(ctx, r.Kind)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, a := range all {
		known[a.ID] = true
	}
	return disk.SweepFolders(r.Root, known)
}

// Described lists the artifacts as describe shows each of them; trouble with one is the describer's
// to attach.
func Described[T any](ctx context.Context, s Repository, describe func(a store.Artifact, users []string) T) ([]T, error) {
	all, err := s.Store.Artifacts(ctx, s.Kind)
	if err != nil {
		return nil, err
	}
	list := make([]T, len(all))
	var errs []error
	for i, a := range all {
		users, err := s.Store.ArtifactUsers(ctx, s.Kind, a.ID)
		errs = append(errs, err)
		list[i] = describe(a, users)
	}
	return list, errors.Join(errs...)
}
