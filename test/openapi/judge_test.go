// Package openapi lets a validator that nobody here wrote hold the daemon's real requests and
// answers against api/openapi.json. It is a module of its own, since the product must not depend on
// the validator.
package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/content"
	"github.com/pb33f/libopenapi-validator/errors"

	"banger/api"
)

const (
	jsonMedia   = "application/json"
	streamMedia = "application/x-ndjson"
)

// judge holds messages against the document. What the document does not name is a fault, though
// clients have to bear it.
type judge struct{ validator.Validator }

func newJudge(t *testing.T) judge {
	t.Helper()
	d, err := libopenapi.NewDocument(strict(t, api.OpenAPI))
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(d,
		config.WithFormatAssertions(), config.WithRejectUndeclaredRequestBody(),
		config.WithBodyDecoder(streamMedia, content.DecoderFunc(oneEvent)),
	)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return judge{v}
}

// strict returns the document with no object open to properties that it does not name.
func strict(t *testing.T, document []byte) []byte {
	t.Helper()
	var root any
	if err := json.Unmarshal(document, &root); err != nil {
		t.Fatal(err)
	}
	closeObjects(root)
	closed, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return closed
}

func closeObjects(node any) {
	switch n := node.(type) {
	case []any:
		for _, item := range n {
			closeObjects(item)
		}
	case map[string]any:
		if _, open := n["additionalProperties"]; !open && n["type"] == "object" {
			n["additionalProperties"] = false
		}
		for _, item := range n {
			closeObjects(item)
		}
	}
}

// oneEvent reads a stream's body, which judge gives a line at a time.
func oneEvent(in *content.DecodeInput) (any, error) {
	var value any
	err := json.NewDecoder(in.Body).Decode(&value)
	return value, err
}

// request returns what is wrong with a request.
func (j judge) request(r *http.Request, body []byte) []string {
	r.Body = io.NopCloser(bytes.NewReader(body))
	_, errs := j.ValidateHttpRequestSync(r)
	return words(errs)
}

// answer returns what is wrong with an answer.
func (j judge) answer(r *http.Request, response *http.Response, body []byte) []string {
	parts := [][]byte{body}
	if response.Header.Get("Content-Type") == streamMedia {
		parts = bytes.SplitAfter(body, []byte("\n"))
		if last := len(parts) - 1; len(parts[last]) == 0 {
			parts = parts[:last]
		}
	}
	var faults []string
	for _, part := range parts {
		response.Body = io.NopCloser(bytes.NewReader(part))
		if _, errs := j.ValidateHttpResponse(r, response); len(errs) > 0 {
			faults = append(faults, fmt.Sprintf("%s\nin %s", strings.Join(words(errs), "\n"), part))
		}
		if string(bytes.TrimSpace(part)) == "null" { // which the validator takes for no body
			faults = append(faults, "the answer is null, which the document allows nowhere")
		}
	}
	return faults
}

func words(errs []*errors.ValidationError) []string {
	var all []string
	for _, e := range errs {
		text := e.Message + ": " + e.Reason
		for _, failure := range e.SchemaValidationErrors {
			text += "\n  " + failure.Error()
		}
		all = append(all, text)
	}
	return all
}

// The document is one of OpenAPI 3.1.
func TestDocument(t *testing.T) {
	d, err := libopenapi.NewDocument(api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(d)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		t.Error(strings.Join(words(errs), "\n"))
	}
}

// A judge that lets everything pass would be no judge.
func TestJudgeIsStrict(t *testing.T) {
	j := newJudge(t)
	for _, test := range []struct {
		name, path, media, body string
		status                  int
		good                    bool
	}{
		{"OK", "/v1/machines", jsonMedia, `[]`, 200, true},
		{"Null", "/v1/machines", jsonMedia, `null`, 200, false},
		{"Object", "/v1/machines", jsonMedia, `{}`, 200, false},
		{"MissingField", "/v1/images/x", jsonMedia, `{"id":"x"}`, 200, false},
		{"UnknownField", "/v1/machines", jsonMedia, `{"code":"internal","message":"x","more":1}`, 500, false},
		{"UnknownCode", "/v1/machines", jsonMedia, `{"code":"nonsense","message":"x"}`, 500, false},
		{"Error", "/v1/machines", jsonMedia, `{"code":"internal","message":"x"}`, 500, true},
		{"NullField", "/v1/machines", jsonMedia, `{"code":"internal","message":"x","hint":null}`, 500, false},
		{"NullList", "/v1/machines", jsonMedia, `{"code":"internal","message":"x","remedies":null}`, 500, false},
		{"NullOfReference", "/v1/machines", jsonMedia, `{"code":null,"message":"x"}`, 500, false},
		{"OtherMedia", "/v1/machines", "text/html", `[]`, 200, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := http.NewRequest(http.MethodGet, "http://banger"+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response := &http.Response{StatusCode: test.status, Header: http.Header{"Content-Type": {test.media}}, Request: r}
			if faults := j.answer(r, response, []byte(test.body)); (len(faults) == 0) != test.good {
				t.Errorf("%s with %d: %q", test.body, test.status, faults)
			}
		})
	}
	for line, good := range map[string]bool{`{"log":"x\n"}`: true, `{"log":1}`: false, `{"progress":{"stage":"x"}}`: false, `{"more":1}`: false} {
		r, err := http.NewRequest(http.MethodPost, "http://banger/v1/machines", nil)
		if err != nil {
			t.Fatal(err)
		}
		response := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {streamMedia}}, Request: r}
		if faults := j.answer(r, response, []byte("{\"log\":\"first\\n\"}\n"+line+"\n")); (len(faults) == 0) != good {
			t.Errorf("event %s: %q", line, faults)
		}
	}
	for body, good := range map[string]bool{`{}`: true, `{"cpus":2}`: true, `{"cpus":"2"}`: false, `{"nonsense":2}`: false, `{"network":"x"}`: false} {
		r, err := http.NewRequest(http.MethodPost, "http://banger/v1/machines", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", jsonMedia)
		if faults := j.request(r, []byte(body)); (len(faults) == 0) != good {
			t.Errorf("request %s: %q", body, faults)
		}
	}
}
