package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"banger/api"
)

// Image is the record of an image whose folder is in place.
type Image struct {
	ID        string // sha256 of the root filesystem, hex
	Name      string // unique, such as debian:trixie
	Source    string
	SizeBytes int64
	Stamp     string // of the file when its hash was last found right, as package disk writes it
	CreatedAt time.Time
}

// Kernel is the record of a kernel bundle whose folder is in place.
type Kernel struct {
	ID        string // sha256 of the manifest's file hashes, hex
	Name      string // unique, such as debian:trixie
	Release   string // as uname -r prints it
	Source    string
	SizeBytes int64
	Stamp     string
	CreatedAt time.Time
}

// PutImage records an image. Recording an id again updates the record; a name that belonged to another image moves
// to this one, and the other keeps its id as its name (VMs may still use it).
func (s *Store) PutImage(ctx context.Context, i Image) error {
	err := s.transaction(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE images SET name = id WHERE name = ? AND id <> ?`, i.Name, i.ID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `
INSERT INTO images (id, name, source, size_bytes, stamp, created_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, source = excluded.source, stamp = excluded.stamp`,
			i.ID, i.Name, i.Source, i.SizeBytes, i.Stamp, toMillis(i.CreatedAt))
		return err
	})
	if err != nil {
		return fmt.Errorf("record image %s: %w", i.Name, err)
	}
	return nil
}

// PutKernel records a kernel bundle, with PutImage's rules.
func (s *Store) PutKernel(ctx context.Context, k Kernel) error {
	err := s.transaction(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE kernels SET name = id WHERE name = ? AND id <> ?`, k.Name, k.ID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `
INSERT INTO kernels (id, name, release, source, size_bytes, stamp, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, source = excluded.source, stamp = excluded.stamp`,
			k.ID, k.Name, k.Release, k.Source, k.SizeBytes, k.Stamp, toMillis(k.CreatedAt))
		return err
	})
	if err != nil {
		return fmt.Errorf("record kernel %s: %w", k.Name, err)
	}
	return nil
}

const (
	imageColumns  = `SELECT id, name, source, size_bytes, stamp, created_at FROM images`
	kernelColumns = `SELECT id, name, release, source, size_bytes, stamp, created_at FROM kernels`
)

func scanImage(row interface{ Scan(...any) error }) (i Image, err error) {
	var created int64
	err = row.Scan(&i.ID, &i.Name, &i.Source, &i.SizeBytes, &i.Stamp, &created)
	i.CreatedAt = fromMillis(created)
	return i, err
}

func scanKernel(row interface{ Scan(...any) error }) (k Kernel, err error) {
	var created int64
	err = row.Scan(&k.ID, &k.Name, &k.Release, &k.Source, &k.SizeBytes, &k.Stamp, &created)
	k.CreatedAt = fromMillis(created)
	return k, err
}

// Image returns the image of that name, or whose id has that prefix.
func (s *Store) Image(ctx context.Context, ref string) (Image, error) {
	return resolve(ctx, s.db, imageColumns, "image", ref, scanImage)
}

// Kernel returns the kernel of that name, or whose id has that prefix.
func (s *Store) Kernel(ctx context.Context, ref string) (Kernel, error) {
	return resolve(ctx, s.db, kernelColumns, "kernel", ref, scanKernel)
}

// Images returns all images by name.
func (s *Store) Images(ctx context.Context) ([]Image, error) {
	return query(ctx, s.db, scanImage, imageColumns+` ORDER BY name`)
}

// Kernels returns all kernels by name.
func (s *Store) Kernels(ctx context.Context) ([]Kernel, error) {
	return query(ctx, s.db, scanKernel, kernelColumns+` ORDER BY name`)
}

// DeleteImage deletes the record; an image that VMs use is a conflict that names them.
func (s *Store) DeleteImage(ctx context.Context, id string) error {
	return s.deleteUnused(ctx, "image", `DELETE FROM images WHERE id = ?`, `SELECT name FROM vms WHERE image_id = ? ORDER BY name`, id)
}

// DeleteKernel deletes the record; a kernel that VMs use is a conflict that names them.
func (s *Store) DeleteKernel(ctx context.Context, id string) error {
	return s.deleteUnused(ctx, "kernel", `DELETE FROM kernels WHERE id = ?`, `SELECT name FROM vms WHERE kernel_id = ? ORDER BY name`, id)
}

// ImageUsers returns the names of the VMs that use the image.
func (s *Store) ImageUsers(ctx context.Context, id string) ([]string, error) {
	return query(ctx, s.db, scanString, `SELECT name FROM vms WHERE image_id = ? ORDER BY name`, id)
}

// KernelUsers returns the names of the VMs that use the kernel.
func (s *Store) KernelUsers(ctx context.Context, id string) ([]string, error) {
	return query(ctx, s.db, scanString, `SELECT name FROM vms WHERE kernel_id = ? ORDER BY name`, id)
}

func scanString(row interface{ Scan(...any) error }) (v string, err error) {
	err = row.Scan(&v)
	return v, err
}

func (s *Store) deleteUnused(ctx context.Context, kind, remove, users, id string) error {
	result, err := s.exec(ctx, remove, id)
	if isConstraint(err, foreignKeyViolation) {
		names, err := query(ctx, s.db, scanString, users, id)
		if err != nil {
			return err
		}
		return api.Errorf(api.CodeConflict, "%s is in use by %s", kind, listed(names)).WithHint("remove those VMs first: banger rm NAME")
	}
	if err != nil {
		return fmt.Errorf("delete record of %s %s: %w", kind, id, err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		return api.Errorf(api.CodeNotFound, "no %s with id %s", kind, id)
	}
	return nil
}

// resolve finds the one row whose id is ref, or that is named ref, or whose id starts with ref (four digits at least). A
// whole id comes first: callers come back with the id they got, and a name may look like one.
func resolve[T any](ctx context.Context, db *sql.DB, columns, kind, ref string, scan func(interface{ Scan(...any) error }) (T, error)) (T, error) {
	var none T
	found, err := scan(db.QueryRowContext(ctx, columns+` WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC LIMIT 1`, ref))
	if err == nil {
		return found, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return none, fmt.Errorf("look up %s %q: %w", kind, ref, err)
	}
	if !isIDPrefix(ref) {
		return none, notFound(kind, ref)
	}
	rows, err := query(ctx, db, scan, columns+` WHERE id >= ? AND id < ? LIMIT 2`, ref, ref+"g") // "g" sorts after every hex digit
	switch {
	case err != nil:
		return none, err
	case len(rows) == 0:
		return none, notFound(kind, ref)
	case len(rows) > 1:
		return none, api.Errorf(api.CodeInvalid, "%q is the start of more than one %s id", ref, kind).WithHint("give more digits, or the name")
	}
	return rows[0], nil
}

func notFound(kind, ref string) error {
	list := map[string]string{"VM": "banger ls", "image": "banger image ls", "kernel": "banger kernel ls"}[kind]
	return api.Errorf(api.CodeNotFound, "no %s named %q", kind, ref).WithHint("see what there is: %s", list)
}

// isIDPrefix reports whether ref can be the beginning of an id: 4 to 64 lower-case hex digits.
func isIDPrefix(ref string) bool {
	if len(ref) < 4 || len(ref) > 64 {
		return false
	}
	for _, c := range ref {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func query[T any](ctx context.Context, db *sql.DB, scan func(interface{ Scan(...any) error }) (T, error), statement string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, fmt.Errorf("query database: %w", err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("query database: %w", err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query database: %w", err)
	}
	return all, nil
}

// listed joins names for a message, the first ten of them.
func listed(names []string) string {
	const most = 10
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	var out strings.Builder
	for i, name := range names {
		if i > 0 {
			out.WriteString(", ")
		}
		out.WriteString(name)
	}
	return out.String() + more
}
