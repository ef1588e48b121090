package store

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

// pointer is what a column's place points to: it is that itself, or a value that holds nothing
// else.
func pointer(t *testing.T, c column) uintptr {
	t.Helper()
	v := reflect.ValueOf(c.at)
	if v.Kind() == reflect.Struct {
		v = v.Field(0)
	}
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.Kind() != reflect.Pointer {
		t.Fatalf("column %s%s is at a %v", c.name, c.expr, v.Kind())
	}
	return v.Pointer()
}

// Every field of a record is a column, and every column of the table is a field: what is added to
// one of the two alone fails here.
func TestColumnsAreFields(t *testing.T) {
	s := open(t)
	for _, tt := range []struct {
		table    string
		columns  func(record reflect.Value) columns
		record   any
		excepted []string // fields that are no column
	}{
		{"vms", func(v reflect.Value) columns { return columnsOf(v.Interface().(*VM)) }, new(VM), nil},
		{"images", func(v reflect.Value) columns { return KindImage.columns(v.Interface().(*Artifact)) }, new(Artifact), []string{"Name", "Release"}},
		{"kernels", func(v reflect.Value) columns { return KindKernel.columns(v.Interface().(*Artifact)) }, new(Artifact), []string{"Name", "KernelID"}},
	} {
		t.Run(tt.table, func(t *testing.T) {
			record := reflect.ValueOf(tt.record)
			listed := map[uintptr]int{}
			var names []string
			for _, c := range tt.columns(record) {
				listed[pointer(t, c)]++
				if c.name != "" {
					names = append(names, c.name)
				}
			}
			for field, value := range record.Elem().Fields() {
				want := 1
				if slices.Contains(tt.excepted, field.Name) {
					want = 0
				}
				if got := listed[value.Addr().Pointer()]; got != want {
					t.Errorf("field %s is listed %d times, want %d", field.Name, got, want)
				}
			}
			inTable, err := query(t.Context(), s.db, scanString, `SELECT name FROM pragma_table_info(?)`, tt.table)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(inTable)
			slices.Sort(names)
			if !slices.Equal(names, inTable) {
				t.Errorf("columns %v, the table has %v", names, inTable)
			}
		})
	}
}

// Empty values come back as they went in, and what the database holds that nobody wrote is an
// error.
func TestValues(t *testing.T) {
	s := open(t)
	var at time.Time
	var addr netip.Addr
	var list []string
	text := "x"
	for _, tt := range []struct {
		name, sql string
		to        any
		want      string // what is then in the value that was scanned to
		wantErr   bool
	}{
		{"Never", `0`, millis{&at}, "0001-01-01 00:00:00 +0000 UTC", false},
		{"ErrTime", `'noon'`, millis{&at}, "", true},
		{"NoAddress", `''`, address{&addr}, "invalid IP", false},
		{"Address", `'172.30.0.2'`, address{&addr}, "172.30.0.2", false},
		{"ErrAddress", `'172.30.0'`, address{&addr}, "", true},
		{"ErrNoAddress", `NULL`, address{&addr}, "", true},
		{"JSON", `'["a","b"]'`, asJSON{&list}, "[a b]", false},
		{"NullLeavesIt", `NULL`, asJSON{&list}, "[a b]", false},
		{"ErrJSON", `'["a"'`, asJSON{&list}, "", true},
		{"ErrNumber", `7`, asJSON{&list}, "", true},
		{"NoText", `NULL`, orNull{&text}, "", false},
		{"Text", `'y'`, orNull{&text}, "y", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := s.db.QueryRowContext(t.Context(), `SELECT `+tt.sql).Scan(tt.to)
			if (err != nil) != tt.wantErr {
				t.Fatalf("error %v, want one: %v", err, tt.wantErr)
			}
			if err != nil {
				return
			}
			var got any
			switch v := tt.to.(type) {
			case millis:
				got = v.Time
			case address:
				got = v.Addr
			case asJSON:
				got = v.to
			case orNull:
				got = v.string
			}
			if text := fmt.Sprint(reflect.ValueOf(got).Elem().Interface()); text != tt.want {
				t.Errorf("%q, want %q", text, tt.want)
			}
		})
	}
}
