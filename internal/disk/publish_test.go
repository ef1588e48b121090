package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerify(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "text")
	file, err := Describe(t.Context(), dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	want := File{Name: "a", SizeBytes: 4, SHA256: "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"}
	if diff := cmp.Diff(want, file); diff != "" {
		t.Fatal(diff)
	}
	files := []File{file}
	stamp, err := Verify(t.Context(), dir, files, "")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Verify(t.Context(), dir, files, stamp); again != stamp || err != nil {
		t.Errorf("second time: %q, %v", again, err)
	}

	t.Run("TrustedIsNotRead", func(t *testing.T) {
		wrong := []File{{Name: "a", SizeBytes: 4, SHA256: "of another text"}}
		if _, err := Verify(t.Context(), dir, wrong, stamp); err != nil {
			t.Errorf("a file of the trusted stamp was hashed: %v", err)
		}
	})
	t.Run("TouchedIsHashedAgain", func(t *testing.T) {
		if err := os.Chtimes(filepath.Join(dir, "a"), time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if again, err := Verify(t.Context(), dir, files, stamp); again == stamp || err != nil {
			t.Errorf("stamp %q, %v; want a new one", again, err)
		}
	})
	t.Run("ErrDamaged", func(t *testing.T) {
		write(t, filepath.Join(dir, "a"), "tExt")
		if _, err := Verify(t.Context(), dir, files, stamp); !errors.Is(err, ErrDamaged) {
			t.Errorf("error %v, want %v", err, ErrDamaged)
		}
	})
	t.Run("ErrGone", func(t *testing.T) {
		if err := os.Remove(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), dir, files, stamp); !errors.Is(err, ErrDamaged) {
			t.Errorf("error %v, want %v", err, ErrDamaged)
		}
	})
}

func TestPublish(t *testing.T) {
	root := filepath.Join(t.TempDir(), "images")
	final := filepath.Join(root, "final")
	for _, text := range []string{"first", "second"} { // the second replaces
		folder, release, err := NewFolder(root)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		write(t, filepath.Join(folder, "file"), text)
		if err := Publish(folder, final); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(filepath.Join(final, "file")); string(got) != text {
			t.Errorf("published %q, want %q", got, text)
		}
	}
}

func TestSweepFolders(t *testing.T) {
	root := t.TempDir()
	unlock, err := Lock(t.Context(), root, "name")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	_, release, err := NewFolder(root) // half-made
	if err != nil {
		t.Fatal(err)
	}
	release()
	making, release, err := NewFolder(root) // and one that somebody is still making
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, name := range []string{"known", "unknown"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := SweepFolders(root, map[string]bool{"known": true}); err != nil {
		t.Fatal(err)
	}
	var got []string
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff([]string{".lock-name", filepath.Base(making), "known"}, got); diff != "" {
		t.Error(diff)
	}
	if err := SweepFolders(filepath.Join(root, "none"), nil); err != nil {
		t.Errorf("no folder at all: %v", err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(t.Context(), dir, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := Lock(t.Context(), dir, "c"); err != nil {
		t.Errorf("another name: %v", err)
	} else {
		other()
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("user went away"))
	if _, err := Lock(ended, dir, "a/b"); err == nil || !strings.Contains(err.Error(), "user went away") {
		t.Errorf("locked twice: %v", err)
	}
	second := make(chan error, 1)
	go func() {
		unlock, err := Lock(t.Context(), dir, "a/b")
		if err == nil {
			unlock()
		}
		second <- err
	}()
	unlock()
	if err := <-second; err != nil {
		t.Errorf("after the unlock: %v", err)
	}
}

func TestManifest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "manifest.json")
	want := File{Name: "n", SizeBytes: 3, SHA256: "x"}
	if err := WriteManifest(path, want); err != nil {
		t.Fatal(err)
	}
	var got File
	if err := ReadManifest(path, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	write(t, path, `{"name":`)
	if err := ReadManifest(path, &got); !errors.Is(err, ErrDamaged) {
		t.Errorf("half a manifest: %v, want %v", err, ErrDamaged)
	}
	if err := ReadManifest(path+"x", &got); !errors.Is(err, ErrDamaged) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no manifest: %v", err)
	}
}

// FuzzLabel reads superblocks that a guest could have written.
func FuzzLabel(f *testing.F) {
	valid := make([]byte, superblockOffset+superblockSize)
	valid[superblockOffset+offsetMagic], valid[superblockOffset+offsetMagic+1] = 0x53, 0xef
	f.Add(valid)
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "fs")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if label, err := Label(path); err == nil && len(label) > MaxLabel {
			t.Errorf("label of %d bytes", len(label))
		}
	})
}
