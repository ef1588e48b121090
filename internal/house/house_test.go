// Package house holds no code: its tests check the rules that the whole repository keeps, such as
// which package may import which. DESIGN and AGENTS tell the rules; here they are enforced.
package house

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "banger"

// source is one Go file of ours.
type source struct {
	path      string // in the repository
	lines     int
	generated bool
	file      *ast.File
	set       *token.FileSet
}

// line is where something stands in the file.
func (s source) line(p token.Pos) int { return s.set.Position(p).Line }

func (s source) folder() string { return path.Dir(s.path) }
func (s source) isTest() bool   { return strings.HasSuffix(s.path, "_test.go") }

// sources parses every Go file of the repository.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		code, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, code, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		all = append(all, source{filepath.ToSlash(relative), bytes.Count(code, []byte("\n")), ast.IsGenerated(file), file, set})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("only %d files were found", len(all))
	}
	return all
}

// imports returns the paths that a file imports.
func imports(t *testing.T, s source) []string {
	t.Helper()
	var paths []string
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// within reports whether a package lies in a folder of this module, or below it.
func within(pkg, folder string) bool {
	pkg = strings.TrimPrefix(pkg, module+"/")
	return pkg == folder || strings.HasPrefix(pkg, folder+"/")
}

// layers are the packages that may know each other only downwards: a package imports none of its
// own layer's neighbours above it. What stands in no layer is checked by forbidden alone.
var layers = [][]string{
	{"cmd"},
	{"internal/cli"},
	{"internal/daemon"},
	{"internal/httpapi"},
	{"internal/control"},
	{"internal/builder"},
	{"internal/vm", "internal/host"},
	{"internal/image", "internal/kernel", "internal/provision", "internal/ssh"},
	{"internal/network/nettest"},
	{"internal/network/keeper"},
	{"internal/network/namespace", "internal/network/holder", "internal/network/relay", "internal/network/uplink", "internal/network/dns"},
	{"internal/network/plan"},
	{"internal/network/nft"},
	{"internal/network"},
	{"internal/artifact", "internal/download"},
	{"internal/firecracker", "internal/guest", "internal/store", "internal/debian", "internal/oci", "internal/config"},
	{"internal/disk", "internal/fetch", "internal/verdict"},
	{"internal/progress", "internal/build", "internal/home", "internal/hostinfo", "internal/atomicfile", "internal/compression", "internal/unixhttp", "internal/accept"},
	{"api"},
}

func TestImportsPointDown(t *testing.T) {
	layerOf := func(pkg string) int {
		at, longest := -1, 0 // a folder may stand in another layer than those below it
		for i, layer := range layers {
			for _, folder := range layer {
				if within(pkg, folder) && len(folder) > longest {
					at, longest = i, len(folder)
				}
			}
		}
		return at
	}
	for _, s := range sources(t) {
		from := layerOf(s.folder())
		if s.isTest() || from < 0 {
			continue
		}
		for _, imported := range imports(t, s) {
			if to := layerOf(imported); to >= 0 && to < from {
				t.Errorf("%s imports %s, which stands above it", s.path, imported)
			}
		}
	}
}

// networkProcesses are what the network's own processes are made of.
var networkProcesses = []string{
	"internal/network/keeper", "internal/network/namespace", "internal/network/holder", "internal/network/relay", "internal/network/plan",
	"internal/network/nft", "internal/network/dns", "internal/network/nettest",
}

// forbidden imports: a package below the folder on the left must not import one on the right.
var forbidden = []struct {
	folder string
	not    []string
	why    string
}{
	{"internal/cli", []string{"internal/vm", "internal/store", "internal/image", "internal/kernel", "internal/firecracker", "internal/qemu", "internal/fcqemu"}, "the CLI uses the daemon's API and nothing else"},
	{"internal/daemon", []string{"internal/cli", "internal/qemu", "internal/fcqemu", "internal/guestd"}, "the daemon knows no QEMU and no guest's inside"},
	{"internal/httpapi", []string{"internal/vm", "internal/store", "internal/image", "internal/kernel", "internal/builder", "internal/config"}, "what an operation does is control's"},
	{"internal/control", []string{"net/http", "internal/qemu", "internal/fcqemu", "internal/guestd"}, "it knows no transport"},
	{"internal/vm", []string{"internal/daemon", "internal/host", "internal/qemu", "internal/fcqemu", "internal/guestd", "net/http"}, "a VM is a VMM behind Firecracker's API"},
	{"internal/vm", networkProcesses, "it asks the network's client"},
	{"internal/daemon", networkProcesses, "it asks the network's client"},
	{"internal/network/relay", []string{"internal/network/uplink", "internal/network/dns"}, "each is a part of its own"},
	{"internal/network/uplink", []string{"internal/network/relay", "internal/network/dns"}, "each is a part of its own"},
	{"internal/network/holder", []string{"internal/network/relay", "internal/network/uplink", "internal/network/dns"}, "it is another process"},
	{"internal/network/dns", []string{"internal/network/relay", "internal/network/uplink", "internal/network/holder", "internal/network/plan"}, "it knows names, not rules"},
	{"internal/network", []string{"internal/vm", "internal/store", "internal/guest", "internal/firecracker", "internal/image"}, "it knows endpoints, not machines"},
	{"internal/host", []string{"internal/qemu", "internal/fcqemu"}, "only firecracker-qemu knows QEMU"},
	{"internal/firecracker", []string{"internal/vm", "internal/guest", "internal/store", "internal/fcqemu", "internal/qemu"}, "it knows the contract only"},
	{"internal/guest", []string{"internal/guestd", "internal/vm", "internal/store", "internal/firecracker"}, "it does not know how a VM runs"},
	{"internal/guestd", []string{"api", "internal/vm", "internal/store", "internal/daemon", "internal/firecracker", "internal/kernel", "internal/image", "github.com/spf13/cobra", "modernc.org/sqlite"}, "it is carried into every guest and must stay small"},
	{"internal/guestd/agent", []string{"internal/guestd/boot"}, "boot and agent are two processes"},
	{"internal/guestd/boot", []string{"internal/guestd/agent"}, "boot and agent are two processes"},
	{"internal/fcqemu", []string{"internal/vm", "internal/store", "internal/daemon", "internal/guest", "internal/cli", "internal/firecracker"}, "firecracker-qemu is a product of its own"},
	{"internal/qemu", []string{"internal/vm", "internal/store", "internal/daemon", "internal/fcqemu", "internal/cli"}, "it is the lower half of firecracker-qemu"},
	{"internal/store", []string{"internal/disk", "internal/vm", "internal/image", "internal/kernel"}, "it keeps records, nothing else"},
	{"internal/oci", []string{"internal/store", "internal/debian", "internal/config", "internal/guest", "internal/firecracker"}, "it turns images into filesystems, whoever keeps them"},
	{"internal/disk", []string{"internal/store", "internal/vm", "internal/image", "internal/kernel"}, "it works on files"},
}

// renames are the folders with a rename that replaces no file by newer content.
var renames = map[string]string{
	"internal/atomicfile": "it is that package",
	"internal/disk":       "folders that are published",
	"internal/cli":        "a log that has become long is moved aside",
	"internal/guestd":     "in the guest",
	"internal/builder":    "a machine's disk becomes an image",
	"internal/vmtest":     "folders of a test",
}

func TestFilesAreReplacedByAtomicfile(t *testing.T) {
	for _, s := range sources(t) {
		allowed := false
		for folder := range renames {
			allowed = allowed || within(s.folder(), folder)
		}
		if s.isTest() || allowed || !within(s.folder(), "internal") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if f, ok := n.(*ast.SelectorExpr); ok && f.Sel.Name == "Rename" {
				t.Errorf("%s renames a file: what replaces one is written by package atomicfile", s.path)
			}
			return true
		})
	}
}

func TestForbiddenImports(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		for _, rule := range forbidden {
			if !within(s.folder(), rule.folder) {
				continue
			}
			for _, imported := range imports(t, s) {
				if slices.ContainsFunc(rule.not, func(folder string) bool { return within(imported, folder) }) {
					t.Errorf("%s imports %s: %s", s.path, imported, rule.why)
				}
			}
		}
	}
}

// A program of somebody else's takes package api without taking banger.
func TestAPIUsesStandardLibraryOnly(t *testing.T) {
	for _, s := range sources(t) {
		if s.folder() != "api" || s.isTest() {
			continue
		}
		for _, imported := range imports(t, s) {
			if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") || first == module {
				t.Errorf("%s imports %s", s.path, imported)
			}
		}
	}
}

func TestNoCatchAllPackages(t *testing.T) {
	for _, s := range sources(t) {
		for part := range strings.SplitSeq(s.folder(), "/") {
			if slices.Contains([]string{"util", "utils", "common", "pkg", "helpers", "misc"}, part) {
				t.Errorf("%s: a package is named by its domain", s.path)
			}
		}
	}
}

// Whoever carries on finds each folder's purpose in AGENTS.md.
func TestFoldersAreNamed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "AGENTS.md"))
	if err != nil {
		t.Fatal(err)
	}
	folders, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if name := "`internal/" + folder.Name() + "`"; !bytes.Contains(text, []byte(name)) {
			t.Errorf("AGENTS.md does not name %s", name)
		}
	}
}

// A package's doc stands in exactly one file that is not a test, unless the package is made of
// tests.
func TestPackageDocInOneFile(t *testing.T) {
	documented := map[string][]string{}
	for _, s := range sources(t) {
		key := s.folder()
		if strings.HasSuffix(s.file.Name.Name, "_test") || s.generated {
			continue
		}
		if s.file.Doc == nil {
			documented[key] = append(documented[key], "")
			continue
		}
		documented[key] = append(documented[key], s.path)
		text := s.file.Doc.Text()
		if want := "Package " + s.file.Name.Name + " "; s.file.Name.Name != "main" && !strings.HasPrefix(text, want) {
			t.Errorf("the doc in %s does not begin with %q", s.path, want)
		}
		if want := "Command " + path.Base(key) + " "; s.file.Name.Name == "main" && within(key, "cmd") && !strings.HasPrefix(text, want) {
			t.Errorf("the doc in %s does not begin with %q", s.path, want)
		}
	}
	for folder, files := range documented {
		files = slices.DeleteFunc(files, func(name string) bool { return name == "" })
		if len(files) != 1 {
			t.Errorf("package %s has its doc in %d files %v, want 1", folder, len(files), files)
		}
	}
}

func TestLengthOfFiles(t *testing.T) {
	const maxFile, maxMain = 500, 40
	for _, s := range sources(t) {
		switch {
		case s.generated:
		case path.Base(s.path) == "main.go" && within(s.folder(), "cmd") && s.lines >= maxMain:
			t.Errorf("%s has %d lines; a main has fewer than %d", s.path, s.lines, maxMain)
		case s.lines > maxFile:
			t.Errorf("%s has %d lines; rethink it at %d", s.path, s.lines, maxFile)
		}
	}
}

// The network is many things for several processes. A package of it that grows beyond this has more
// than one of them.
func TestLengthOfNetworkPackages(t *testing.T) {
	const most = 1000
	lines := map[string]int{}
	for _, s := range sources(t) {
		if !s.isTest() && !s.generated && within(s.folder(), "internal/network") {
			lines[s.folder()] += s.lines
		}
	}
	if len(lines) < 8 {
		t.Errorf("found only %d packages of the network", len(lines))
	}
	for folder, n := range lines {
		if n > most {
			t.Errorf("package %s has %d lines; split it at %d", folder, n, most)
		}
	}
}
