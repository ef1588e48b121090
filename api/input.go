package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxInputBytes bounds the JSON of a request.
const maxInputBytes = 4 << 20

// place says where a field of an input travels.
type place string

const (
	inPath  place = "path"
	inQuery place = "query"
	inBody  place = "body"
)

// InputField is one field of an operation's input.
type InputField struct {
	Name  string // on the wire
	Place string // "path", "query" or "body"
	Field reflect.StructField
}

// optional reports whether the field may be left out of a body.
func (f InputField) optional() bool {
	_, options, _ := strings.Cut(f.Field.Tag.Get("json"), ",")
	return strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
}

// InputFields returns the fields of an input, in the order of its struct.
func InputFields(in reflect.Type) []InputField {
	var fields []InputField
	for f := range in.Fields() {
		switch {
		case f.Tag.Get("path") != "":
			fields = append(fields, InputField{f.Tag.Get("path"), string(inPath), f})
		case f.Tag.Get("query") != "":
			fields = append(fields, InputField{f.Tag.Get("query"), string(inQuery), f})
		default:
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, InputField{name, string(inBody), f})
		}
	}
	return fields
}

// encodeInput returns the method, the URL's path with its query, and the body, which is nil when
// the input has no field for it.
func encodeInput(spec Spec, in any) (method, target string, body []byte, err error) {
	if err := checkText(reflect.ValueOf(in)); err != nil {
		return "", "", nil, err
	}
	method, target, _ = strings.Cut(spec.Route, " ")
	query, hasBody := url.Values{}, false
	value := reflect.ValueOf(in)
	for _, f := range InputFields(value.Type()) {
		field := value.FieldByIndex(f.Field.Index)
		switch place(f.Place) {
		case inBody:
			hasBody = true
			continue
		case inQuery:
			if field.IsZero() {
				continue
			}
		}
		text, err := formatField(field)
		if err != nil {
			return "", "", nil, fmt.Errorf("write %s of %s: %w", f.Name, spec.Name, err)
		}
		if place(f.Place) == inPath && (text == "" || text == "." || text == "..") { // they would lead to another route
			return "", "", nil, Errorf(CodeInvalid, "%q is no name of a %s", text, f.Name)
		}
		if place(f.Place) == inQuery {
			query.Set(f.Name, text)
			continue
		}
		target = strings.Replace(target, "{"+f.Name+"}", url.PathEscape(text), 1)
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	if hasBody {
		body, err = json.Marshal(in)
	}
	return method, target, body, err
}

// DecodeInput reads what a client sent: the path's and the query's fields, and the body when the
// input has fields for it. What is not known is refused, so that a typing mistake is not silently
// left out. An empty body is the zero value.
func DecodeInput[In any](r *http.Request) (In, error) {
	var in In
	value := reflect.ValueOf(&in).Elem()
	fields := InputFields(value.Type())
	if slices.ContainsFunc(fields, func(f InputField) bool { return place(f.Place) == inBody }) {
		given, err := decodeBody(r.Body, &in)
		if err != nil {
			return in, Errorf(CodeInvalid, "read request: %w", err)
		}
		// What openapi.json requires: without it the zero value would be taken for what was meant.
		for _, f := range fields {
			if _, ok := given[f.Name]; !ok && place(f.Place) == inBody && !f.optional() {
				return in, Errorf(CodeInvalid, "read request: the field %q is missing", f.Name)
			}
		}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return in, Errorf(CodeInvalid, "read request: %w", err)
	}
	for name, values := range query {
		if len(values) > 1 {
			return in, Errorf(CodeInvalid, "parameter %q is given %d times", name, len(values))
		}
	}
	for _, f := range fields {
		text := ""
		switch place(f.Place) {
		case inBody:
			continue
		case inPath:
			text = r.PathValue(f.Name)
		case inQuery:
			text = query.Get(f.Name)
			query.Del(f.Name)
		}
		if text == "" {
			continue
		}
		if err := parseField(value.FieldByIndex(f.Field.Index), text); err != nil {
			return in, Errorf(CodeInvalid, "%s: %w", f.Name, err)
		}
	}
	for name := range query {
		return in, Errorf(CodeInvalid, "unknown parameter %q", name)
	}
	return in, nil
}

// decodeBody reads a JSON object into to, and returns which fields it has.
func decodeBody(body io.ReadCloser, to any) (given map[string]json.RawMessage, err error) {
	// Read whole, also so that net/http notices when the client leaves.
	text, err := io.ReadAll(http.MaxBytesReader(nil, body, maxInputBytes))
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(text) { // which the decoder would silently change
		return nil, errors.New("it is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(to)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return given, json.Unmarshal(text, &given)
		}
		err = errors.New("something follows the JSON value")
	}
	return nil, err
}

// checkText refuses text that is not UTF-8: JSON has no way to carry it, and what arrives would be
// another file's name, say.
func checkText(v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return Errorf(CodeInvalid, "%q is not UTF-8", v.String())
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return checkText(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkText(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for key, value := range v.Seq2() {
			if err := errors.Join(checkText(key), checkText(value)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for f, value := range v.Fields() {
			if !f.IsExported() {
				continue
			}
			if err := checkText(value); err != nil {
				return err
			}
		}
	}
	return nil
}

// formatField writes a value for a path or a query.
func formatField(v reflect.Value) (string, error) {
	if text, ok := reflect.TypeAssert[encoding.TextMarshaler](v); ok {
		data, err := text.MarshalText()
		return string(data), err
	}
	return fmt.Sprint(v.Interface()), nil
}

// parseField is the reverse of formatField.
func parseField(v reflect.Value, text string) error {
	if to, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return to.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is no number", text)
		}
		v.SetInt(n)
	case reflect.Uint16:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is no number from 0 to 65535", text)
		}
		v.SetUint(n)
	default:
		return fmt.Errorf("a %s cannot stand in a URL", v.Type())
	}
	return nil
}

// inputObject returns an input as one JSON object, whatever the place of its fields.
func inputObject(in any) (map[string]json.RawMessage, error) {
	object := map[string]json.RawMessage{}
	value := reflect.ValueOf(in)
	for _, f := range InputFields(value.Type()) {
		field := value.FieldByIndex(f.Field.Index)
		if field.IsZero() {
			continue
		}
		data, err := json.Marshal(field.Interface())
		if err != nil {
			return nil, err
		}
		object[f.Name] = data
	}
	return object, nil
}

// setInputObject is the reverse of inputObject; in points to the input.
func setInputObject(in any, object map[string]json.RawMessage) error {
	value := reflect.ValueOf(in).Elem()
	known := 0
	for _, f := range InputFields(value.Type()) {
		data, ok := object[f.Name]
		if !ok {
			continue
		}
		known++
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(value.FieldByIndex(f.Field.Index).Addr().Interface()); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	if known != len(object) {
		return fmt.Errorf("%d of %d fields are unknown", len(object)-known, len(object))
	}
	return nil
}
