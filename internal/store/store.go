// Package store keeps the daemon's records in one SQLite file: VMs, images and kernels.
//
// It holds intent and truth (what should exist and what was taken), never bulk data: disks, bundles
// and logs are folders beside it. One daemon at a time opens it; the daemon's lock file sees to
// that. Methods return *api.Error for what a user caused (not found, name taken) and plain errors
// for faults of the database.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"banger/api"
)

// Store is an open database. It is safe for concurrent use.
type Store struct {
	db *sql.DB
	// writer lets one write at a time through. SQLite has a lock of its own for that, but those who
	// wait for it poll and may starve: 200 creates at once ran into its timeout.
	writer chan struct{}
}

// pragmas stand in the DSN, because the pool opens connections whenever it likes and each needs
// them. synchronous=FULL: a record survives a power cut, not only a crash of the daemon.
var pragmas = []string{"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}

// Open opens the database file at path, makes it when it is missing (mode 0600) and brings its
// schema up to date. A database written by a newer banger is refused and left untouched.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := refuseNewer(ctx, path); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(path, url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	s := &Store{db: db, writer: make(chan struct{}, 1)}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), db.Close())
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

func dsn(path string, query url.Values) string {
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}).String()
}

// refuseNewer looks at the schema's number through a read-only connection, so that a database of a
// newer banger is not even switched to another journal mode.
func refuseNewer(ctx context.Context, path string) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	db, err := sql.Open("sqlite", dsn(path, url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(5000)"}}))
	if err != nil {
		return fmt.Errorf("open database %s: %w", path, err)
	}
	defer db.Close()
	version, err := schemaVersion(ctx, db)
	if err != nil {
		return fmt.Errorf("read database %s: %w", path, err)
	}
	if version > len(migrations) {
		return api.Errorf(api.CodeUnsupported, "database %s is of a newer banger (schema %d, this one knows %d); it was not touched", path, version, len(migrations)).
			WithHint("install the newer banger again, or point BANGER_HOME at another folder")
	}
	return nil
}

func schemaVersion(ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
},
) (int, error) {
	var version int
	err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version)
	return version, err
}

// migrate runs the steps that are missing, each in a transaction of its own together with its
// number.
func (s *Store) migrate(ctx context.Context) error {
	version, err := schemaVersion(ctx, s.db)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	for step := version; step < len(migrations); step++ {
		err := s.transaction(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, migrations[step]); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", step+1))
			return err
		})
		if err != nil {
			return fmt.Errorf("migrate to schema %d: %w", step+1, err)
		}
	}
	return nil
}

// beginWrite waits for its turn to write, and returns what ends it.
func (s *Store) beginWrite(ctx context.Context) (end func(), err error) {
	select {
	case s.writer <- struct{}{}:
		return func() { <-s.writer }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// exec runs one statement that writes.
func (s *Store) exec(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	end, err := s.beginWrite(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	return s.db.ExecContext(ctx, statement, args...)
}

// transaction runs do and commits, or rolls back when it returns an error.
func (s *Store) transaction(ctx context.Context, do func(*sql.Tx) error) error {
	end, err := s.beginWrite(ctx)
	if err != nil {
		return err
	}
	defer end()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// isConstraint reports whether err is the violation of a constraint with the extended code.
func isConstraint(err error, code int) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == code
}

const (
	uniqueViolation     = sqlite3.SQLITE_CONSTRAINT_UNIQUE
	foreignKeyViolation = sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
	primaryKeyViolation = sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
)

// Times are stored as Unix milliseconds; 0 is "never".
func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
