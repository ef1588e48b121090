package openapi

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// comments are the words that package api's source has for its types.
type comments struct {
	types  map[string]string            // by type
	fields map[string]map[string]string // by type and field
	values map[string][]any             // the constants of a string type
}

// readComments reads the Go files of a folder.
func readComments(folder string) (comments, error) {
	c := comments{types: map[string]string{}, fields: map[string]map[string]string{}, values: map[string][]any{}}
	names, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return c, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return c, fmt.Errorf("read comments: %w", err)
		}
		for _, declaration := range file.Decls {
			if d, ok := declaration.(*ast.GenDecl); ok {
				c.read(d)
			}
		}
	}
	return c, nil
}

func (c comments) read(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			c.types[s.Name.Name] = text(d.Doc, s.Doc)
			if shape, ok := s.Type.(*ast.StructType); ok {
				c.readFields(s.Name.Name, shape)
			}
		case *ast.ValueSpec:
			c.readValue(d.Tok, s)
		}
	}
}

func (c comments) readFields(name string, shape *ast.StructType) {
	c.fields[name] = map[string]string{}
	for _, field := range shape.Fields.List {
		for _, ident := range field.Names {
			c.fields[name][ident.Name] = text(field.Doc, field.Comment)
		}
	}
}

// readValue keeps a constant of a string type.
func (c comments) readValue(tok token.Token, s *ast.ValueSpec) {
	kind, ok := s.Type.(*ast.Ident)
	if tok != token.CONST || !ok || len(s.Values) != 1 {
		return
	}
	if literal, ok := s.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
		if value, err := strconv.Unquote(literal.Value); err == nil {
			c.values[kind.Name] = append(c.values[kind.Name], value)
		}
	}
}

// text joins comments into one line.
func text(groups ...*ast.CommentGroup) string {
	var words []string
	for _, group := range groups {
		words = append(words, strings.Fields(group.Text())...)
	}
	return strings.Join(words, " ")
}

func (c comments) field(t reflect.Type, name string) string { return c.fields[t.Name()][name] }

// openTypes have values besides their constants.
var openTypes = []string{"WaitFor"}

// enum returns all values of a string type, or nil when it has others.
func (c comments) enum(name string) []any {
	if slices.Contains(openTypes, name) {
		return nil
	}
	return c.values[name]
}
