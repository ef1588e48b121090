package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestIDIsStable(t *testing.T) {
	first, err := ID()
	if err != nil || first == "" {
		t.Fatalf("ID = %q, %v", first, err)
	}
	if again, err := ID(); again != first || err != nil {
		t.Errorf("ID = %q, %v the second time; want %q", again, err, first)
	}
}

// printer prints the ID of its own build; extra makes one build's code another's.
const printer = `package main

import (
	"fmt"

	"banger/internal/build"
)

func main() { fmt.Print(build.ID()) %s }
`

// The CLI replaces a daemon of another build, so two builds must differ and the same code must not.
func TestIDOfBuilds(t *testing.T) {
	module, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	// A package of this module may import its internals; an overlay lets it lie elsewhere.
	dir := t.TempDir()
	ids := map[string]string{}
	for _, variant := range []struct{ name, code, flags string }{
		{"one", "", ""}, {"same", "", ""}, {"other code", "; fmt.Print()", ""}, {"other flags", "", "-X main.unused=1 -s"},
	} {
		source, overlay, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "program")
		write(t, source, strings.Replace(printer, "%s", variant.code, 1))
		write(t, overlay, `{"Replace":{"`+filepath.Join(module, "cmd", "printid", "main.go")+`":"`+source+`"}}`)
		command := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-ldflags", variant.flags, "-o", program, "./cmd/printid")
		command.Dir = module
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		out, err := exec.CommandContext(t.Context(), program).Output()
		id, ok := strings.CutSuffix(string(out), "<nil>")
		if err != nil || !ok {
			t.Fatalf("%s: %q, %v", variant.name, out, err)
		}
		ids[variant.name] = id
	}
	if ids["one"] != ids["same"] {
		t.Errorf("the same code built twice has the IDs %q and %q", ids["one"], ids["same"])
	}
	if ids["one"] == ids["other code"] || ids["one"] == ids["other flags"] || ids["other code"] == ids["other flags"] {
		t.Errorf("different builds share an ID: %q", ids)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVersion(t *testing.T) {
	if got := Version(); got == "" || got == "unknown" {
		t.Errorf("Version = %q", got)
	}
}
