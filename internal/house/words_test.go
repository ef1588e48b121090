package house

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	maxComment  = 100 // columns of a line that is a comment; a tab counts as four
	maxCode     = 140 // columns of a line of code
	longText    = 60  // a text in quotes that is longer stays in one piece, and its line may be too
	maxFunction = 80  // lines
)

var quoted = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`")

// Lines can be read beside one another. Tests keep tables as they are, and texts are not cut.
func TestWidthOfLines(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", "..", s.path))
		if err != nil {
			t.Fatal(err)
		}
		raw := false // inside a text between backquotes, which may span lines
		for i, line := range strings.Split(string(text), "\n") {
			inText := raw
			if strings.Count(line, "`")%2 == 1 {
				raw = !raw
			}
			if !inText && tooWide(line, s.isTest()) {
				t.Errorf("%s:%d is %d columns wide", s.path, i+1, columns(line))
			}
		}
	}
}

func columns(line string) int { return len([]rune(strings.ReplaceAll(line, "\t", "    "))) }

func tooWide(line string, test bool) bool {
	trimmed := strings.TrimSpace(line)
	switch {
	case strings.HasPrefix(trimmed, "//go:"), strings.Contains(trimmed, "`"):
		return false
	case strings.HasPrefix(trimmed, "//"):
		words := strings.Fields(trimmed)
		preformatted := !strings.HasPrefix(trimmed, "// ") || strings.HasPrefix(trimmed, "//  ")
		return columns(line) > maxComment && len(words) > 2 && !preformatted
	case test || columns(line) <= maxCode:
		return false
	}
	for _, text := range quoted.FindAllString(line, -1) {
		if len(text) > longText {
			return false
		}
	}
	return true
}

// A function is understood without scrolling.
func TestLengthOfFunctions(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated || s.isTest() {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if lines := s.line(f.End()) - s.line(f.Pos()) + 1; lines > maxFunction {
				t.Errorf("%s: %s has %d lines; rethink it", s.path, f.Name.Name, lines)
			}
		}
	}
}

// commandLine is how a text tells people to type a command of banger's.
var commandLine = regexp.MustCompile("(: |^|`)banger ([a-hj-z]|i[a-rt-z])[a-z]*") // and not "banger is"

// frontEnds may name commands: the command line itself, and what is read by people alone.
var frontEnds = []string{"internal/cli", "internal/ssh", "bench", "cmd", "internal/fcqemu"}

// An error below the front ends names the operation that helps (api.Op.Remedy): a page or another
// program has no command line to type into.
func TestErrorsNameOperations(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() || inAny(s.folder(), frontEnds) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if name, ok := call.Fun.(*ast.SelectorExpr); !ok || name.Sel.Name != "WithHint" && name.Sel.Name != "Errorf" {
				return true
			}
			for _, arg := range call.Args {
				literal, ok := arg.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					continue
				}
				if text, err := strconv.Unquote(literal.Value); err == nil && commandLine.MatchString(text) {
					t.Errorf("%s:%d tells people to type %q", s.path, s.line(literal.Pos()), text)
				}
			}
			return true
		})
	}
}

func inAny(folder string, folders []string) bool {
	for _, f := range folders {
		if within(folder, f) {
			return true
		}
	}
	return false
}
