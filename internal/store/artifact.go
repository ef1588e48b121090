package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"banger/api"
)

// Artifact is the record of an image or of a kernel bundle whose folder is in place.
type Artifact struct {
	ID string // 64 hex digits that tell its content
	// Name is one name, such as debian:trixie. Written, it is given to the artifact (empty gives
	// none); read, it is the first of Names, or the id when there is none.
	Name      string
	Names     []string // all, the oldest first; only read
	Source    string
	SizeBytes int64
	Stamp     string // of the files when their hashes were last found right, as package disk writes it
	CreatedAt time.Time
	KernelID  string // of an image: the kernel bundle that it names; empty is none
	Release   string // of a kernel: as uname -r prints it
}

type (
	// Image is one kind of artifact.
	Image = Artifact
	// Kernel is the other.
	Kernel = Artifact
)

// PutArtifact records an artifact, and gives it a name when a.Name is not empty. Recording an id
// again updates the record and keeps its other names; a name that belonged to another artifact of
// the kind moves to this one, and the other may end without any (VMs may still use it).
func (s *Store) PutArtifact(ctx context.Context, k *Kind, a Artifact) error {
	statement, args := k.columns(&a).insertInto(k.sql("$kinds"))
	statement += k.sql(` ON CONFLICT (id) DO UPDATE SET source = excluded.source, stamp = excluded.stamp, $own = excluded.$own`)
	err := s.transaction(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, statement, args...); err != nil || a.Name == "" || a.Name == a.ID {
			return err
		}
		return k.tag(ctx, tx, a.ID, a.Name)
	})
	if isConstraint(err, foreignKeyViolation) {
		return api.Errorf(api.CodeConflict, "the kernel of image %s was removed meanwhile", a.Name).WithHint("try again")
	}
	if err != nil {
		return fmt.Errorf("record %s %s: %w", k, a.Name, err)
	}
	return nil
}

func (k *Kind) tag(ctx context.Context, tx *sql.Tx, id, name string) error {
	_, err := tx.ExecContext(ctx, k.sql(`
INSERT INTO $kind_names (name, $kind_id) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET $kind_id = excluded.$kind_id`), name, id)
	return err
}

// SetStamp records the stamp to trust from now on.
func (s *Store) SetStamp(ctx context.Context, k *Kind, id, stamp string) error {
	if _, err := s.exec(ctx, k.sql(`UPDATE $kinds SET stamp = ? WHERE id = ?`), stamp, id); err != nil {
		return fmt.Errorf("record stamp of %s %s: %w", k, id, err)
	}
	return nil
}

// Tag gives an artifact one more name; a name that another one has moves.
func (s *Store) Tag(ctx context.Context, k *Kind, id, name string) error {
	err := s.transaction(ctx, func(tx *sql.Tx) error { return k.tag(ctx, tx, id, name) })
	if isConstraint(err, foreignKeyViolation) {
		return notFound(k.entity, id)
	}
	if err != nil {
		return fmt.Errorf("name %s %s: %w", k, name, err)
	}
	return nil
}

// Untag takes a name away; there being none is no error.
func (s *Store) Untag(ctx context.Context, k *Kind, name string) error {
	if _, err := s.exec(ctx, k.sql(`DELETE FROM $kind_names WHERE name = ?`), name); err != nil {
		return fmt.Errorf("take name %s from %s: %w", name, k, err)
	}
	return nil
}

func (k *Kind) scan(row scanner) (a Artifact, err error) {
	if err := row.Scan(k.columns(&a).targets()...); err != nil {
		return a, err
	}
	a.Name = a.ID
	if len(a.Names) > 0 {
		a.Name = a.Names[0]
	}
	return a, nil
}

// Artifact returns the artifact of that name, or whose id has that prefix.
func (s *Store) Artifact(ctx context.Context, k *Kind, ref string) (Artifact, error) {
	return resolve(ctx, s.db, k.query(), k.sql(`id = (SELECT $kind_id FROM $kind_names WHERE name = ?1)`), k.entity, ref, k.scan)
}

// Artifacts returns all of a kind, by name, those without one last.
func (s *Store) Artifacts(ctx context.Context, k *Kind) ([]Artifact, error) {
	all, err := query(ctx, s.db, k.scan, k.query()+` ORDER BY created_at, id`)
	slices.SortStableFunc(all, func(a, b Artifact) int {
		switch {
		case len(a.Names) == 0 && len(b.Names) > 0:
			return 1
		case len(b.Names) == 0 && len(a.Names) > 0:
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all, err
}

// DeleteArtifact deletes the record and its names; one that VMs (or, for a kernel, images) use is a
// conflict that names them.
func (s *Store) DeleteArtifact(ctx context.Context, k *Kind, id string) error {
	result, err := s.exec(ctx, k.sql(`DELETE FROM $kinds WHERE id = ?`), id)
	if isConstraint(err, foreignKeyViolation) {
		names, err := s.ArtifactUsers(ctx, k, id)
		if err != nil {
			return err
		}
		return api.Errorf(api.CodeConflict, "%s is in use by %s", k, listed(names)).WithHint("%s", k.hint)
	}
	if err != nil {
		return fmt.Errorf("delete record of %s %s: %w", k, id, err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		return api.Errorf(api.CodeNotFound, "no %s with id %s", k, id)
	}
	return nil
}

// ArtifactUsers returns the names of the VMs that use the artifact; those of images that name a
// kernel follow as "image NAME".
func (s *Store) ArtifactUsers(ctx context.Context, k *Kind, id string) ([]string, error) {
	var users []string
	for _, statement := range k.users {
		names, err := query(ctx, s.db, scanString, statement, id)
		if err != nil {
			return nil, err
		}
		users = append(users, names...)
	}
	return users, nil
}

// scanner is a row.
type scanner interface{ Scan(to ...any) error }

func scanString(row scanner) (v string, err error) {
	err = row.Scan(&v)
	return v, err
}

// resolve finds the one row whose id is ref, or that is named ref (named is the condition, on ?1),
// or whose id starts with ref (four digits at least). A whole id comes first: callers come back
// with the id they got, and a name may look like one.
func resolve[T any](
	ctx context.Context,
	db *sql.DB,
	columns, named string,
	what entity,
	ref string,
	scan func(scanner) (T, error),
) (T, error) {
	var none T
	found, err := scan(db.QueryRowContext(ctx, columns+` WHERE id = ?1 OR `+named+` ORDER BY id = ?1 DESC LIMIT 1`, ref))
	if err == nil {
		return found, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return none, fmt.Errorf("look up %s %q: %w", what.name, ref, err)
	}
	if !isIDPrefix(ref) {
		return none, notFound(what, ref)
	}
	// "g" sorts after every hex digit
	rows, err := query(ctx, db, scan, columns+` WHERE id >= ? AND id < ? LIMIT 2`, ref, ref+"g")
	switch {
	case err != nil:
		return none, err
	case len(rows) == 0:
		return none, notFound(what, ref)
	case len(rows) > 1:
		return none, api.Errorf(api.CodeInvalid, "%q is the start of more than one %s id", ref, what.name).
			WithHint("give more digits, or the name")
	}
	return rows[0], nil
}

func notFound(what entity, ref string) error {
	return api.Errorf(api.CodeNotFound, "no %s named %q", what.name, ref).WithRemedy(what.list)
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

func query[T any](ctx context.Context, db *sql.DB, scan func(scanner) (T, error), statement string, args ...any) ([]T, error) {
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
