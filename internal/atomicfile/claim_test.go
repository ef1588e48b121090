package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, tempPrefix+"x")
	if _, err := Claim(path); !errors.Is(err, ErrGone) {
		t.Errorf("Claim of nothing = %v", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	release, err := Claim(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := RemoveUnclaimed(path, os.RemoveAll); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("what is claimed was removed: %v", err)
	}
	release()
	if err := RemoveUnclaimed(path, os.RemoveAll); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what nobody claims is left: %v", err)
	}
}

// A name that leads to something else by now is not what was made.
func TestClaimReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := claim(file, path); !errors.Is(err, ErrGone) {
		t.Errorf("claim = %v, want ErrGone", err)
	}
}

// A sweep meets a file that is being written and leaves it.
func TestSweepWhileWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	err := Fill(path, 0o600, Volatile, func(file *os.File) error {
		if _, err := file.WriteString("whole"); err != nil {
			return err
		}
		return Sweep(filepath.Dir(path))
	})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "whole" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}
