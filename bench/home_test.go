package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeBanger is a folder with a banger that is a shell script.
func fakeBanger(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "banger"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpenHome(t *testing.T) {
	bin := fakeBanger(t, "")
	kept := t.TempDir()
	h, err := openHome(kept, bin)
	if err != nil || h.dir != kept || h.temporary {
		t.Errorf("home is %+v, %v", h, err)
	}
	if h, err = openHome("", bin); err != nil || !h.temporary {
		t.Fatalf("home is %+v, %v", h, err)
	}
	if err := os.Remove(h.dir); err != nil {
		t.Error(err)
	}
	if _, err := openHome("", t.TempDir()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without programs the error is %v", err)
	}
}

func TestBangerGetsItsHome(t *testing.T) {
	home := t.TempDir()
	h, err := openHome(home, fakeBanger(t, `echo "$BANGER_HOME $BANGER_VMM $*" > "$BANGER_HOME/said"`))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("BANGER_HOME", "/elsewhere")
	if err := h.banger(t.Context(), "run", "--rm"); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(filepath.Join(home, "said"))
	if want := home + " firecracker-qemu run --rm\n"; err != nil || string(said) != want {
		t.Errorf("banger was given %q, %v, want %q", said, err, want)
	}
}

func TestBangerFails(t *testing.T) {
	h, err := openHome(t.TempDir(), fakeBanger(t, "echo no such image >&2; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.banger(t.Context(), "run"); err == nil || err.Error() != "banger run: exit status 3: no such image" {
		t.Errorf("the error is %v", err)
	}
}

// A home folder in which something may still run is not removed under it.
func TestCloseKeepsAHomeThatDoesNotEnd(t *testing.T) {
	h, err := openHome("", fakeBanger(t, "exit 1"))
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(h.dir)
	if err := h.close(t.Context()); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(h.dir); err != nil {
		t.Error(err)
	}
}
