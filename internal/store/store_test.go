package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"banger/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a new database that is closed with the test.
func open(t *testing.T) *Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "state.db"))
}

func openAt(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var someTime = time.UnixMilli(1_700_000_000_123)

// id returns an id of n hex digits that begins with prefix.
func id(prefix string, n int) string { return prefix + strings.Repeat("0", n-len(prefix)) }

// withArtifacts records one image and one kernel for VMs.
func withArtifacts(t *testing.T, s *Store) (image, kernel string) {
	t.Helper()
	image, kernel = id("1111", 64), id("2222", 64)
	err := errors.Join(
		s.PutArtifact(t.Context(), KindImage, Artifact{ID: image, Name: "debian:trixie", CreatedAt: someTime}),
		s.PutArtifact(t.Context(), KindKernel, Artifact{ID: kernel, Name: "debian:trixie", CreatedAt: someTime}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return image, kernel
}

func TestOpenMigratesFromEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%20.db") // the name must not be taken for a part of a URL
	s := openAt(t, path)
	version, err := schemaVersion(t.Context(), s.db)
	if err != nil || version != len(migrations) {
		t.Errorf("schema %d, %v; want %d", version, err, len(migrations))
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode %o, want 600", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openAt(t, path)
	if vms, err := again.VMs(t.Context()); len(vms) != 0 || err != nil {
		t.Errorf("machines of an empty database = %v, %v", vms, err)
	}
}

// Schema 2 had one name in each record, which was the id when there was none. VMs, and what they
// use, come through.
func TestMigrateNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := sql.Open("sqlite", dsn(path, url.Values{"_pragma": pragmas}))
	if err != nil {
		t.Fatal(err)
	}
	image, older, kernel := id("1", 64), id("2", 64), id("3", 64)
	for _, statement := range append(migrations[:2:2], `
INSERT INTO images VALUES ('`+image+`', 'debian:trixie', 'source', 5, 'stamp', 7), ('`+older+`', '`+older+`', 'source', 5, 'stamp', 7);
INSERT INTO kernels VALUES ('`+kernel+`', 'debian:trixie', '6.12', 'source', 5, 'stamp', 7);
INSERT INTO vms (id, name, image_id, kernel_id, cpus, memory_mib, disk_mib, env, auto_remove, state, created_at)
VALUES ('vm', 'web', '`+image+`', '`+kernel+`', 1, 2, 3, '[]', 0, 'stopped', 9);
PRAGMA user_version = 2`) {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := openAt(t, path)
	images, imagesErr := s.Artifacts(t.Context(), KindImage)
	kernels, kernelsErr := s.Artifacts(t.Context(), KindKernel)
	vm, vmErr := s.VM(t.Context(), "web")
	if err := errors.Join(imagesErr, kernelsErr, vmErr); err != nil {
		t.Fatal(err)
	}
	record := Artifact{ID: image, Name: "debian:trixie", Names: []string{"debian:trixie"}, Source: "source", SizeBytes: 5, Stamp: "stamp", CreatedAt: fromMillis(7)}
	unnamed, ofKernel := record, record
	unnamed.ID, unnamed.Name, unnamed.Names = older, older, []string{}
	ofKernel.ID, ofKernel.Release = kernel, "6.12"
	if diff := cmp.Diff([][]Artifact{{record, unnamed}, {ofKernel}}, [][]Artifact{images, kernels}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if vm.ImageName != "debian:trixie" || vm.KernelName != "debian:trixie" {
		t.Errorf("the machine's image and kernel are %q and %q", vm.ImageName, vm.KernelName)
	}
	if err := s.DeleteArtifact(t.Context(), KindImage, image); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("the machine's image can be deleted: %v", err)
	}
}

func TestOpenMigratesFromEmptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil { // as a crash between making and migrating leaves it
		t.Fatal(err)
	}
	if _, err := openAt(t, path).VMs(t.Context()); err != nil {
		t.Error(err)
	}
}

// Each connection of the pool has the pragmas, not only the first.
func TestPragmasOnEachConnection(t *testing.T) {
	s := open(t)
	for range 3 {
		conn, err := s.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for pragma, want := range map[string]string{"foreign_keys": "1", "journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000"} {
			var got string
			if err := conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s = %q, %v; want %q", pragma, got, err, want)
			}
		}
	}
}

// A database of a newer banger is refused, and stays as it is to the byte.
func TestOpenRefusesNewer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	withArtifacts(t, s)
	if _, err := s.db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA user_version = %d", len(migrations)+1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path)
	if api.CodeOf(err) != api.CodeUnsupported || !strings.Contains(err.Error(), "newer banger") {
		t.Errorf("Open = %v, want unsupported", err)
	}
	if e, _ := errors.AsType[*api.Error](err); e != nil && e.Hint == "" && len(e.Remedies) == 0 {
		t.Error("the refusal has no hint")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the refused database was written to (%v)", err)
	}
}

func TestOpenErrors(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	content := bytes.Repeat([]byte("not a database "), 1000)
	if err := os.WriteFile(garbage, content, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, want string }{
		{"NoFolder", filepath.Join(t.TempDir(), "none", "state.db"), "open database"},
		{"Folder", t.TempDir(), "database"},
		{"Garbage", garbage, "read database"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(t.Context(), tt.path)
			if err == nil {
				s.Close()
				t.Fatal("Open succeeded")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open = %v, want %q", err, tt.want)
			}
		})
	}
	if after, err := os.ReadFile(garbage); err != nil || !bytes.Equal(after, content) {
		t.Errorf("the file that is no database was written to (%v)", err)
	}
}

// A migration that fails leaves the schema's number where it was, so that the next start tries
// again.
func TestMigrationIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	openAt(t, path).Close()
	good := migrations
	t.Cleanup(func() { migrations = good })
	migrations = append(append([]string{}, good...), "CREATE TABLE half (x) STRICT; nonsense")
	if s, err := Open(t.Context(), path); err == nil {
		s.Close()
		t.Fatal("a broken migration succeeded")
	}
	migrations = append(append([]string{}, good...), "CREATE TABLE whole (x TEXT) STRICT")
	s := openAt(t, path)
	var tables int
	err := s.db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM sqlite_master WHERE name IN ('half', 'whole')").Scan(&tables)
	if err != nil || tables != 1 {
		t.Errorf("%d tables, %v; want the whole migration alone", tables, err)
	}
}

func TestTransactionRollsBack(t *testing.T) {
	s := open(t)
	broken := errors.New("no")
	err := s.transaction(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO images VALUES ('i', 'n', 's', 1, '', 0)`)
		return errors.Join(err, broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("transaction = %v", err)
	}
	if images, err := s.Artifacts(t.Context(), KindImage); len(images) != 0 || err != nil {
		t.Errorf("Images = %v, %v after a rollback", images, err)
	}
}

// Writers wait for each other instead of failing with "database is locked".
func TestConcurrentUse(t *testing.T) {
	const workers, each = 8, 12
	s := open(t)
	image, kernel := withArtifacts(t, s)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for i := range each {
				if err := oneLife(t.Context(), s, fmt.Sprintf("%04x%08x", w, i), image, kernel); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	all, running, err := s.CountVMs(t.Context())
	if all != workers*each/2 || running != all || err != nil {
		t.Errorf("CountVMs = %d, %d, %v; want %d running", all, running, err, workers*each/2)
	}
}

// oneLife makes a VM, brings it up and, every second time, removes it.
func oneLife(ctx context.Context, s *Store, id, image, kernel string) error {
	err := errors.Join(
		s.InsertVM(ctx, &VM{ID: id, Name: "vm-" + id, ImageID: image, KernelID: kernel, State: api.StateCreating}, nil),
		s.SetStarting(ctx, id, "/bin/vmm"),
		s.SetVMM(ctx, id, 7, 8),
		s.SetRunning(ctx, id, someTime),
	)
	if err != nil {
		return err
	}
	if v, err := s.VM(ctx, id); err != nil || v.VMMPID != 7 {
		return fmt.Errorf("machine %s: pid %d, %w", id, v.VMMPID, err)
	}
	if _, err := s.VMs(ctx); err != nil {
		return err
	}
	if id[len(id)-1]%2 == 0 {
		return s.DeleteVM(ctx, id)
	}
	return nil
}
