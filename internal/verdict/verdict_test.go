package verdict

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

type trial struct {
	Works bool   `json:"works"`
	Why   string `json:"why"`
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "verdict.json")
	f := File[trial]{Path: path, Key: "binary"}
	if got, ok := f.Load(); ok {
		t.Fatalf("a verdict of no trial: %+v", got)
	}
	want := trial{true, "it booted"}
	if err := f.Store(want); err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]struct {
		key, boot, text string // an empty text leaves the file as it was stored
		want            bool
	}{
		"Kept":       {"binary", "", "", true},
		"OtherKey":   {"another binary", "", "", false},
		"OtherBoot":  {"binary", "another boot", "", false},
		"NoJSON":     {"binary", "", "{", false},
		"OtherJSON":  {"binary", "", `{"works":true,"boot_id":"x"}`, false},
		"NotAnymore": {"binary", "", `[]`, false},
	} {
		t.Run(name, func(t *testing.T) {
			kept, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.WriteFile(path, kept, 0o600); err != nil {
					t.Fatal(err)
				}
			}()
			if check.text != "" {
				if err := os.WriteFile(path, []byte(check.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if check.boot != "" {
				real := bootID
				bootID = func() (string, error) { return check.boot, nil }
				defer func() { bootID = real }()
			}
			got, ok := File[trial]{Path: path, Key: check.key}.Load()
			if ok != check.want || ok && got != want {
				t.Errorf("%+v, %v; want one: %v", got, ok, check.want)
			}
		})
	}
}

// Whoever stores at once with others leaves a whole file, and nothing beside it.
func TestStoreAtOnce(t *testing.T) {
	f := File[trial]{Path: filepath.Join(t.TempDir(), "verdict.json")}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := f.Store(trial{true, "it booted"}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got, ok := f.Load(); !ok || got.Why != "it booted" {
		t.Errorf("%+v, %v", got, ok)
	}
	if entries, err := os.ReadDir(filepath.Dir(f.Path)); len(entries) != 1 || err != nil {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}

func TestStoreFails(t *testing.T) {
	if err := (File[trial]{Path: "/proc/none/verdict.json"}).Store(trial{}); err == nil {
		t.Error("a verdict was kept in no folder")
	}
}

func TestBootID(t *testing.T) {
	a, err := bootID()
	if b, _ := bootID(); err != nil || len(a) != 36 || a != b {
		t.Errorf("boot id %q, then %q, %v", a, b, err)
	}
}
