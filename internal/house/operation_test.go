package house

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A new operation touches few rooms: testdata/new-operation.diff adds one, and in a copy of the
// tree the client has it, the daemon answers it, the document describes it and the command is
// there.
func TestNewOperation(t *testing.T) {
	patch, err := filepath.Abs(filepath.Join("testdata", "new-operation.diff"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(patch)
	if err != nil {
		t.Fatal(err)
	}
	rooms := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if file, ok := strings.CutPrefix(strings.TrimSpace(line), "+++ b/"); ok {
			rooms[path.Dir(file)] = true
		}
	}
	want := []string{"api", "internal/cli", "internal/control", "internal/httpapi"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(rooms))); diff != "" {
		t.Errorf("rooms (-want +got):\n%s", diff)
	}
	dir := copyTree(t)
	run := func(name string, args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), name, args...)
		command.Dir, command.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("git", "apply", patch)
	run("go", "generate", "./api")
	run("go", "test", "-trimpath", "-count=1", "-run", "Operation|Document|Bound", "./api", "./internal/openapi", "./internal/httpapi")
	run("go", "build", "-trimpath", "-o", "banger", "./cmd/banger")
	if help := run("./banger", "uptime", "--help"); !strings.Contains(help, "Say how long a machine has been running") {
		t.Errorf("banger uptime --help says:\n%s", help)
	}
}

// copyTree copies what banger is built of.
func copyTree(t *testing.T) string {
	t.Helper()
	root, to := filepath.Join("..", ".."), t.TempDir()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin") {
			return filepath.SkipDir
		}
		relative, err := filepath.Rel(root, name)
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(name)
		target := filepath.Join(to, relative)
		return errors.Join(err, os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, text, 0o644))
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}
