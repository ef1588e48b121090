// Package openapi writes the OpenAPI 3.1 document of package api from its table of operations.
// Shapes come from the Go types, and words from their comments, so that neither is written twice.
// api/openapi.json is what it gave; a test compares.
package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"banger/api"
)

// document is the root of an OpenAPI document, as far as it is used here.
type document struct {
	OpenAPI    string                          `json:"openapi"`
	Info       info                            `json:"info"`
	Servers    []server                        `json:"servers"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components components                      `json:"components"`
}

type info struct {
	Title       string `json:"title"`
	Description string `json:"description"`
	Version     string `json:"version"`
}

type server struct {
	URL         string `json:"url"`
	Description string `json:"description"`
}

type operation struct {
	OperationID string              `json:"operationId"`
	Summary     string              `json:"summary"`
	Parameters  []parameter         `json:"parameters,omitempty"`
	RequestBody *body               `json:"requestBody,omitempty"`
	Responses   map[string]response `json:"responses"`
	Kind        api.Kind            `json:"x-banger-kind"`
	Right       api.Right           `json:"x-banger-right"`
}

type parameter struct {
	Name        string             `json:"name"`
	In          string             `json:"in"`
	Description string             `json:"description,omitempty"`
	Required    bool               `json:"required,omitempty"`
	Schema      *jsonschema.Schema `json:"schema"`
}

type body struct {
	Required bool             `json:"required,omitempty"`
	Content  map[string]media `json:"content"`
}

type response struct {
	Description string           `json:"description"`
	Content     map[string]media `json:"content,omitempty"`
}

type media struct {
	Schema *jsonschema.Schema `json:"schema,omitempty"`
}

type components struct {
	Schemas map[string]*jsonschema.Schema `json:"schemas"`
}

const (
	jsonMedia   = "application/json"
	streamMedia = "application/x-ndjson" // one JSON value a line
)

// Generate returns the document. sources is the folder of package api, whose comments become
// descriptions.
func Generate(sources string) ([]byte, error) {
	words, err := readComments(sources)
	if err != nil {
		return nil, err
	}
	b := &shapes{words: words, schemas: map[string]*jsonschema.Schema{}}
	d := document{
		OpenAPI: "3.1.0",
		Info: info{
			Title: "banger", Version: strconv.Itoa(api.Version),
			Description: "The daemon's HTTP API. Long operations (x-banger-kind progress) answer with one JSON event a line; " +
				"upgrade operations carry frames after the answer: a type byte, a 32-bit big-endian length, that many bytes.",
		},
		Servers: []server{{URL: "http://banger", Description: "The unix socket that `banger daemon status` names."}},
		Paths:   map[string]map[string]operation{},
	}
	for _, op := range api.Operations {
		method, path, _ := strings.Cut(op.Describe().Route, " ")
		if d.Paths[path] == nil {
			d.Paths[path] = map[string]operation{}
		}
		described, err := b.operation(op)
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", op.Describe().Name, err)
		}
		d.Paths[path][strings.ToLower(method)] = described
	}
	d.Components.Schemas = b.schemas
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(d); err != nil {
		return nil, fmt.Errorf("write document: %w", err)
	}
	return out.Bytes(), nil
}

func (b *shapes) operation(op api.Operation) (operation, error) {
	spec := op.Describe()
	in, out := op.Types()
	o := operation{OperationID: spec.Name, Summary: spec.Doc, Kind: spec.Kind, Right: spec.Right}
	hasBody := false
	for _, f := range api.InputFields(in) {
		if f.Place == "body" {
			hasBody = true
			continue
		}
		schema, err := b.schema(f.Field.Type)
		if err != nil {
			return o, err
		}
		o.Parameters = append(o.Parameters, parameter{
			Name: f.Name, In: f.Place, Description: b.words.field(in, f.Field.Name), Required: f.Place == "path", Schema: schema,
		})
	}
	switch {
	case spec.Kind == api.KindUpload || spec.Kind == api.KindUploadProgress:
		o.RequestBody = &body{Required: true, Content: map[string]media{spec.Media: {}}}
	case hasBody:
		schema, err := b.schema(in)
		if err != nil {
			return o, err
		}
		o.RequestBody = &body{Content: map[string]media{jsonMedia: {schema}}}
	}
	var err error
	o.Responses, err = b.responses(spec, out)
	return o, err
}

// responses describes the answers: what the kind gives, and the API's one kind of error.
func (b *shapes) responses(spec api.Spec, out reflect.Type) (map[string]response, error) {
	failed, err := b.schema(reflect.TypeFor[api.Error]())
	if err != nil {
		return nil, err
	}
	all := map[string]response{"default": {"Why it failed.", map[string]media{jsonMedia: {failed}}}}
	code, answer := http.StatusOK, response{Description: "Done."}
	switch spec.Kind {
	case api.KindUnary, api.KindUpload:
		if out == reflect.TypeFor[api.None]() {
			code = http.StatusNoContent
			break
		}
		schema, err := b.schema(out)
		if err != nil {
			return nil, err
		}
		answer.Content = map[string]media{jsonMedia: {schema}}
	case api.KindProgress, api.KindUploadProgress:
		schema, err := b.event(out)
		if err != nil {
			return nil, err
		}
		answer = response{"Events, one a line: progress, then one result or error.", map[string]media{streamMedia: {schema}}}
	case api.KindDownload:
		answer = response{"The bytes. A connection that breaks off has not given all.", map[string]media{spec.Media: {}}}
	case api.KindUpgrade:
		code, answer.Description = http.StatusSwitchingProtocols, "Frames follow ("+api.ExecUpgrade+")."
	case api.KindHold:
		answer.Description = "It holds until the client closes the connection."
	}
	all[strconv.Itoa(code)] = answer
	return all, nil
}
