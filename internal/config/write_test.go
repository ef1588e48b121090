package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWithImage(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"Empty", "", "image = \"x:y\"\n"},
		{"Replaced", "# mine\ncpus = 4\n  image  = 'old' # why\nmemory = \"1GiB\"\n", "# mine\ncpus = 4\nimage = \"x:y\"\nmemory = \"1GiB\"\n"},
		{"Quoted", "\"image\" = 'old'", "image = \"x:y\""},
		{"Added", "cpus = 4\n", "image = \"x:y\"\ncpus = 4\n"},
		{"NotInTable", "[sources]\nimage = 'of another table'\n", "image = \"x:y\"\n[sources]\nimage = 'of another table'\n"},
		{"NotAnotherKey", "images = 3\n", "image = \"x:y\"\nimages = 3\n"},
	} {
		if got := withImage(tt.text, "x:y"); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestSetImage(t *testing.T) {
	home := t.TempDir()
	getenv := env(map[string]string{"HOME": home})
	path, err := SetImage(getenv, "work") // makes folder and file
	if err != nil || path != filepath.Join(home, ".config/banger/config.toml") {
		t.Fatalf("path %s, %v", path, err)
	}
	kept := filepath.Join(home, "dotfiles.toml")
	if err := os.Rename(path, kept); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kept, path); err != nil {
		t.Fatal(err)
	}
	if _, err := SetImage(getenv, "other"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the symlink is gone: %v, %v", info, err)
	}
	c, shown, err := Load(getenv)
	if err != nil || c.Image != "other" {
		t.Errorf("image %q, %v", c.Image, err)
	}
	for _, s := range shown {
		if s.Key == "image" && s.Origin != path {
			t.Errorf("it comes from %s", s.Origin)
		}
	}
	if err := os.WriteFile(kept, []byte("image = [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := SetImage(getenv, "x"); err == nil {
		t.Error("a file that cannot be read was written")
	}
}
