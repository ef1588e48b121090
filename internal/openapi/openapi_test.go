package openapi

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// The committed document is what the operations and their comments give now.
func TestDocumentIsFresh(t *testing.T) {
	fresh, err := Generate(filepath.Join("..", "..", "api"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(fresh, api.OpenAPI) {
		t.Error("api/openapi.json is not what the table gives: go generate ./api")
	}
}

// Every operation is described, every reference leads somewhere, and every shape and field has
// words.
func TestDocumentIsWhole(t *testing.T) {
	var d document
	if err := json.Unmarshal(api.OpenAPI, &d); err != nil {
		t.Fatal(err)
	}
	for _, op := range api.Operations {
		method, path, _ := strings.Cut(op.Describe().Route, " ")
		if got := d.Paths[path][strings.ToLower(method)]; got.OperationID != op.Describe().Name {
			t.Errorf("%s is described as %q", op.Describe().Route, got.OperationID)
		}
	}
	for name, schema := range d.Components.Schemas {
		if schema.Description == "" {
			t.Errorf("%s has no description", name)
		}
	}
	if bytes.Contains(api.OpenAPI, []byte(`"type": []`)) {
		t.Error("a schema allows no type at all")
	}
	for _, part := range strings.Split(string(api.OpenAPI), `"$ref": "`)[1:] {
		ref, _, _ := strings.Cut(part, `"`)
		if name, ok := strings.CutPrefix(ref, inComponents); !ok || d.Components.Schemas[name] == nil {
			t.Errorf("nothing is at %s", ref)
		}
	}
}
