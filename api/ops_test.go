package api

import (
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var pathField = regexp.MustCompile(`\{([a-z_]+)\}`)

// The table says of each operation what its route, kind and right must agree on.
func TestOperations(t *testing.T) {
	names, routes := map[string]bool{}, map[string]bool{}
	for _, op := range Operations {
		spec := op.Describe()
		if names[spec.Name] || routes[spec.Route] {
			t.Errorf("%s (%s) stands there twice", spec.Name, spec.Route)
		}
		names[spec.Name], routes[spec.Route] = true, true
		t.Run(spec.Name, func(t *testing.T) { checkOperation(t, op) })
	}
}

func checkOperation(t *testing.T, op Operation) {
	spec := op.Describe()
	in, out := op.Types()
	method, path, _ := strings.Cut(spec.Route, " ")
	if want := "/v1/"; !strings.HasPrefix(path, want) {
		t.Errorf("path %s does not begin with %s", path, want)
	}
	if !strings.HasSuffix(spec.Doc, ".") {
		t.Errorf("doc %q is no sentence", spec.Doc)
	}
	if (method == http.MethodGet) != (spec.Right == RightRead) {
		t.Errorf("%s with the right %q", method, spec.Right)
	}
	bytes := spec.Kind == KindUpload || spec.Kind == KindUploadProgress || spec.Kind == KindDownload
	if bytes != (spec.Media != "") {
		t.Errorf("kind %s with media type %q", spec.Kind, spec.Media)
	}
	noAnswer := spec.Kind == KindDownload || spec.Kind == KindUpgrade || spec.Kind == KindHold
	if noAnswer && out != reflect.TypeFor[None]() {
		t.Errorf("kind %s answers with a %s", spec.Kind, out)
	}
	var inPathOfRoute, inPathOfInput []string
	for _, match := range pathField.FindAllStringSubmatch(path, -1) {
		inPathOfRoute = append(inPathOfRoute, match[1])
	}
	for _, f := range InputFields(in) {
		switch f.Place {
		case "path":
			inPathOfInput = append(inPathOfInput, f.Name)
		case "body":
			if method == http.MethodGet || method == http.MethodDelete || bytes {
				t.Errorf("field %s stands in the body of %s, a %s", f.Name, method, spec.Kind)
			}
		}
		if f.Name == "" || f.Field.Anonymous {
			t.Errorf("field %s has no name on the wire", f.Field.Name)
		}
		if tag := f.Field.Tag.Get("json"); f.Place != "body" && tag != "-" {
			t.Errorf("field %s stands in the %s and in the body", f.Name, f.Place)
		}
	}
	slices.Sort(inPathOfRoute)
	slices.Sort(inPathOfInput)
	if !slices.Equal(inPathOfRoute, inPathOfInput) {
		t.Errorf("the path has %v, the input %v", inPathOfRoute, inPathOfInput)
	}
}

// Every operation has its method on the client, unless it is named here.
func TestClientHasEveryOperation(t *testing.T) {
	without := []string{"OpenAPI"} // api.OpenAPI is the document
	client := reflect.TypeFor[*Client]()
	for _, op := range Operations {
		name := op.Describe().Name
		if _, ok := client.MethodByName(name); ok == slices.Contains(without, name) {
			t.Errorf("Client.%s: %t", name, ok)
		}
	}
}
