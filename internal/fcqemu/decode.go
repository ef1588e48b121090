package fcqemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// decode reads a request's body into the struct that v points to, as strictly as Firecracker's
// serde does: no unknown field, no field twice, no missing field. Fields without omitempty in their
// tag are required unless they are pointers or carry `default:"yes"`; the words are serde's, since
// clients match them.
func decode(body []byte, v any) error {
	if err := decodeStrict(body, reflect.ValueOf(v).Elem()); err != nil {
		return fmt.Errorf("An error occurred when deserializing the json body of a request: %w.", err)
	}
	return nil
}

func decodeStrict(body []byte, v reflect.Value) error {
	end := position(body, len(body))
	fields, err := members(body)
	if err != nil {
		return err
	}
	known := map[string]int{}
	var names []string
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		known[name] = i
		names = append(names, name)
	}
	seen := map[string]bool{}
	for _, f := range fields {
		i, ok := known[f.name]
		if !ok {
			return fmt.Errorf("unknown field `%s`, %s at %s", f.name, expected(names), position(body, f.end))
		}
		if seen[f.name] {
			return fmt.Errorf("duplicate field `%s` at %s", f.name, position(body, f.end))
		}
		seen[f.name] = true
		if err := decodeValue(f.value, v.Field(i)); err != nil {
			return err
		}
	}
	for i, name := range names {
		field := v.Type().Field(i)
		if !seen[name] && field.Type.Kind() != reflect.Pointer && field.Tag.Get("default") == "" {
			return fmt.Errorf("missing field `%s` at %s", name, end)
		}
	}
	return nil
}

// decodeValue recurses into structs, so that they are strict too. null is the absence of an
// optional field.
func decodeValue(raw json.RawMessage, v reflect.Value) error {
	if v.Kind() == reflect.Pointer {
		if bytes.Equal(raw, []byte("null")) {
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return decodeValue(raw, v.Elem())
	}
	switch {
	case v.Kind() == reflect.Struct:
		return decodeStrict(raw, v)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		return decodeSlice(raw, v)
	case v.Kind() == reflect.Interface:
		return json.Unmarshal(raw, v.Addr().Interface())
	}
	if bytes.Equal(raw, []byte("null")) {
		return fmt.Errorf("invalid type: null, expected %s at line 1 column %d", describe(v), len(raw))
	}
	err := json.Unmarshal(raw, v.Addr().Interface())
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return fmt.Errorf("invalid type: %s `%.100s`, expected %s at line 1 column %d", wrong.Value, raw, describe(v), len(raw))
	}
	if err != nil {
		return err
	}
	if e, ok := reflect.TypeAssert[enum](v); ok {
		return checkVariant(v.String(), e.variants())
	}
	return nil
}

func decodeSlice(raw json.RawMessage, v reflect.Value) error {
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return fmt.Errorf("invalid type: %.100s, expected a sequence at line 1 column %d", raw, len(raw))
	}
	v.Set(reflect.MakeSlice(v.Type(), len(elements), len(elements)))
	for i, element := range elements {
		if err := decodeStrict(element, v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

// An enum is a string with a closed set of values.
type enum interface{ variants() []string }

func checkVariant(got string, variants []string) error {
	if slices.Contains(variants, got) {
		return nil
	}
	return fmt.Errorf("unknown variant `%s`, %s", got, expected(variants))
}

func expected(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = "`" + name + "`"
	}
	switch len(quoted) {
	case 0:
		return "there are no fields"
	case 1:
		return "expected " + quoted[0]
	case 2:
		return "expected " + quoted[0] + " or " + quoted[1]
	}
	return "expected one of " + strings.Join(quoted, ", ")
}

func describe(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		return "a boolean"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a sequence"
	}
	return strings.NewReplacer("uint", "u", "int", "i").Replace(v.Kind().String())
}

type member struct {
	name  string
	value json.RawMessage
	end   int // offset behind the name
}

// members splits an object, keeping its order and what occurs twice.
func members(body []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	t, err := d.Token()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("EOF while parsing a value at %s", position(body, len(body)))
	}
	if err != nil {
		return nil, syntaxError(body, err)
	}
	if t != json.Delim('{') {
		return nil, fmt.Errorf("invalid type: %v, expected an object at %s", t, position(body, int(d.InputOffset())))
	}
	var all []member
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, syntaxError(body, err)
		}
		name, _ := t.(string)
		m := member{name: name, end: int(d.InputOffset())}
		if err := d.Decode(&m.value); err != nil {
			return nil, syntaxError(body, err)
		}
		all = append(all, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, syntaxError(body, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("trailing characters at %s", position(body, int(d.InputOffset())))
	}
	return all, nil
}

func syntaxError(body []byte, err error) error {
	offset := len(body)
	if s := (*json.SyntaxError)(nil); errors.As(err, &s) {
		offset = int(s.Offset)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("EOF while parsing an object at %s", position(body, len(body)))
	}
	return fmt.Errorf("%w at %s", err, position(body, offset))
}

// position counts as serde does: lines from 1, columns in bytes.
func position(body []byte, offset int) string {
	before := body[:min(offset, len(body))]
	line := 1 + bytes.Count(before, []byte("\n"))
	return fmt.Sprintf("line %d column %d", line, len(before)-1-bytes.LastIndexByte(before, '\n'))
}
