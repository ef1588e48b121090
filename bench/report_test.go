package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func someReport() *report {
	return &report{
		Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Host:  host{CPU: "a CPU", CPUs: 2, Kernel: "6.1", LoadStart: "0.10 0.20 0.30", QEMU: "QEMU 10", Commit: "abc"},
		Results: []result{{
			Name: "cold", Note: "one and another", Seconds: 12.3,
			Series: []series{newSeries("one", "ms", 1.5, 12.25, 4000), newSeries("another", "ms", 2)},
			Ratios: []ratio{{"met", 1.1, 1.15}, {"missed", 1.2, 1.15}, {Name: "without", Value: 3}},
		}},
	}
}

func TestPrint(t *testing.T) {
	var got bytes.Buffer
	if err := someReport().writeTo(&got); err != nil {
		t.Fatal(err)
	}
	want := `a CPU, 2 CPUs, Linux 6.1, QEMU 10
commit abc, load at start 0.10 0.20 0.30

cold: one and another (12 s)
  n    min  median    p99    max    
  3  1.500    12.2   4000   4000  ms  one
  1  2.000   2.000  2.000  2.000  ms  another
  1.100  met: target 1.15, met
  1.200  missed: target 1.15, MISSED
  3.000  without
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

// Raw samples are what the file is for.
func TestWriteKeepsSamples(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	want := someReport()
	if err := want.write(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Error(diff)
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel([]byte("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t: fpu\n\nprocessor\t: 1\nmodel name\t: another\n")); got != "AMD EPYC" {
		t.Errorf("model is %q", got)
	}
	if got := cpuModel([]byte("processor\t: 0\n")); got != "" {
		t.Errorf("model of none is %q", got)
	}
}
