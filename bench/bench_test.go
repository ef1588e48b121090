package main

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/cavaliergopher/cpio"

	"banger/internal/store"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"-only", "cold,list", "-cold", "3"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.cold != 3 || o.execs != 300 || !slices.Equal(o.names(), []string{"cold", "list"}) {
		t.Errorf("options are %+v", o)
	}
	for name, args := range map[string][]string{
		"unknown section": {"-only", "cold,warm"},
		"count of zero":   {"-execs", "0"},
		"unknown flag":    {"-n", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(args, io.Discard); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestJoinInitrd(t *testing.T) {
	var rest bytes.Buffer
	w := cpio.NewWriter(&rest)
	if err := w.WriteHeader(&cpio.Header{Name: "modules", Mode: cpio.TypeDir | 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := joinInitrd([]byte("program"), rest.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(image)%pageSize != 0 {
		t.Errorf("the initrd has %d bytes, no whole pages", len(image))
	}
	r := cpio.NewReader(bytes.NewReader(image))
	h, err := r.Next()
	if err != nil || h.Name != "init" || h.Mode != cpio.TypeReg|0o755 {
		t.Fatalf("the first file is %+v, %v", h, err)
	}
	if data, err := io.ReadAll(r); err != nil || string(data) != "program" {
		t.Errorf("init is %q, %v", data, err)
	}
	if at := bytes.Index(image, rest.Bytes()); at < 0 || at%4 != 0 {
		t.Errorf("the second archive begins at %d", at)
	}
}

// The bare query must see what the store writes, or the comparison is of different things.
func TestQueryVMs(t *testing.T) {
	path := t.TempDir() + "/state.db"
	if err := insertVMs(t.Context(), path, 3); err != nil {
		t.Fatal(err)
	}
	db, err := openDatabase(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if n, err := queryVMs(t.Context(), db); err != nil || n != 3 {
		t.Errorf("the query gives %d rows, %v", n, err)
	}
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if vms, err := s.VMs(t.Context()); err != nil || len(vms) != 3 {
		t.Errorf("the store lists %d machines, %v", len(vms), err)
	}
}
