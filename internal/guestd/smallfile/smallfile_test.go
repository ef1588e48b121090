package smallfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("12345678"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(path, 8); string(got) != "12345678" || err != nil {
		t.Errorf("at the bound: %q, %v", got, err)
	}
	if got, err := Read(path, 7); got != nil || !errors.Is(err, ErrTooLong) ||
		!strings.Contains(err.Error(), "more than 7 bytes") {
		t.Errorf("beyond the bound: %q, %v", got, err)
	}
	if _, err := Read(path+"x", 8); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	if _, err := Read(filepath.Dir(path), 8); err == nil {
		t.Error("read a folder")
	}
}

// Each row begins with what lies at the path, and says what the change is given and what is there
// afterwards.
func TestUpdate(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("safe"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := func(content string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	link := func(target string) func(string) error {
		return func(path string) error { return os.Symlink(target, path) }
	}
	tests := []struct {
		name    string
		start   func(path string) error
		old     string // as the change sees it
		wantErr string
	}{
		{"Missing", func(string) error { return nil }, "", ""},
		{"File", file("old"), "old", ""},
		{"Link", link(outside), "", ""},
		{"DanglingLink", link("nowhere"), "", ""},
		{"TempLeft", func(path string) error { return file("of a boot cut short")(path + ".banger") }, "", ""},
		{"ErrFolder", func(path string) error { return os.Mkdir(path, 0o755) }, "", "is a directory"},
		{"ErrLarge", file(strings.Repeat("x", maxUpdateBytes+1)), "", "more than"},
		{"ErrTemp", func(path string) error { return os.Mkdir(path+".banger", 0o755) }, "", "is a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := tt.start(path); err != nil {
				t.Fatal(err)
			}
			err := Update(path, 0o644, func(old []byte) []byte {
				if string(old) != tt.old {
					t.Errorf("changed %.40q, want %q", old, tt.old)
				}
				return []byte("new")
			})
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil || !info.Mode().IsRegular() {
				t.Fatalf("got %v, %v, want a file", info, err)
			}
			if got, _ := os.ReadFile(path); string(got) != "new" {
				t.Errorf("got %q", got)
			}
			if _, err := os.Lstat(path + ".banger"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is left beside it: %v", err)
			}
		})
	}
	if b, _ := os.ReadFile(outside); string(b) != "safe" {
		t.Errorf("wrote through a symlink: %q", b)
	}
}

// What says so already is not written: its times and its inode stay, for whoever watches it.
func TestUpdateUnchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("same"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Update(path, 0o644, func(old []byte) []byte { return old }); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
		t.Errorf("the file was replaced: %v, %v", after, err)
	}
}
