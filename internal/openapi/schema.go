package openapi

import (
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"banger/api"
)

// shapes collects the schemas of the types of package api, each under its own name.
type shapes struct {
	words   comments
	schemas map[string]*jsonschema.Schema
}

const inComponents = "#/components/schemas/"

// schema returns a type's schema: a reference for the types of package api, the shape itself for
// all others.
func (b *shapes) schema(t reflect.Type) (*jsonschema.Schema, error) {
	known, err := b.known(t)
	if err != nil {
		return nil, err
	}
	schema, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: known})
	if err != nil {
		return nil, err
	}
	neverNull(schema)
	return schema, nil
}

// known returns references to the api types that a type is made of, itself included, and adds those
// to the components.
func (b *shapes) known(t reflect.Type) (map[reflect.Type]*jsonschema.Schema, error) {
	found := map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[netip.Addr]():      {Type: "string", Description: "An IP address."},
		reflect.TypeFor[json.RawMessage](): {}, // any value
	}
	for _, named := range namedTypes(t, nil) {
		found[named] = &jsonschema.Schema{Ref: inComponents + named.Name()}
		if err := b.add(named); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// namedTypes returns the types of package api that t holds, each once.
func namedTypes(t reflect.Type, seen []reflect.Type) []reflect.Type {
	switch {
	case slices.Contains(seen, t):
		return seen
	case t.PkgPath() == reflect.TypeFor[api.Error]().PkgPath() && !strings.Contains(t.Name(), "["):
		seen = append(seen, t)
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
		return namedTypes(t.Elem(), seen)
	case reflect.Struct:
		if t.PkgPath() != reflect.TypeFor[api.Error]().PkgPath() {
			return seen // of the standard library, whose inside does not travel
		}
		for f := range t.Fields() {
			if f.Tag.Get("json") != "-" {
				seen = namedTypes(f.Type, seen)
			}
		}
	}
	return seen
}

// add puts a named type among the components.
func (b *shapes) add(t reflect.Type) error {
	if b.schemas[t.Name()] != nil {
		return nil
	}
	b.schemas[t.Name()] = &jsonschema.Schema{} // so that a type that holds itself ends here
	if t.Kind() == reflect.String {
		*b.schemas[t.Name()] = jsonschema.Schema{Type: "string", Description: b.words.types[t.Name()], Enum: b.words.enum(t.Name())}
		return nil
	}
	known, err := b.known(t)
	if err != nil {
		return err
	}
	delete(known, t)
	schema, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: known})
	if err != nil {
		return err
	}
	neverNull(schema)
	schema.Description = b.words.types[t.Name()]
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if property := schema.Properties[name]; property != nil {
			property.Description = b.words.field(t, f.Name)
		}
	}
	*b.schemas[t.Name()] = *schema
	return nil
}

// event returns the schema of one line of a stream that ends with a result of that type.
func (b *shapes) event(result reflect.Type) (*jsonschema.Schema, error) {
	event := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{"log": {Type: "string"}}}
	for name, t := range map[string]reflect.Type{
		"progress": reflect.TypeFor[api.Progress](), "error": reflect.TypeFor[api.Error](), "result": result,
	} {
		schema, err := b.schema(t)
		if err != nil {
			return nil, err
		}
		event.Properties[name] = schema
	}
	event.PropertyOrder = slices.Sorted(maps.Keys(event.Properties))
	return event, nil
}

// neverNull says that a list or a pointer is left out where it is nil, as all of package api's are,
// and that what a newer daemon adds is no error.
func neverNull(s *jsonschema.Schema) {
	s.Types = slices.DeleteFunc(s.Types, func(t string) bool { return t == "null" })
	switch len(s.Types) {
	case 0: // of a pointer to a type of package api, whose reference says the type
		s.Types = nil
	case 1:
		s.Type, s.Types = s.Types[0], nil
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Not != nil {
		s.AdditionalProperties = nil
	}
	if s.Items != nil {
		neverNull(s.Items)
	}
	if s.AdditionalProperties != nil {
		neverNull(s.AdditionalProperties)
	}
	for _, property := range s.Properties {
		neverNull(property)
	}
}
