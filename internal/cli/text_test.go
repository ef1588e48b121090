package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

func TestParsePlace(t *testing.T) {
	tests := []struct {
		in   string
		want place
	}{
		{"-", place{stream: true}},
		{"web:/srv", place{vm: "web", path: "/srv"}},
		{"web:", place{vm: "web"}},
		{"web:a:b", place{vm: "web", path: "a:b"}},
		{"file", place{path: "file"}},
		{"./a:b", place{path: "./a:b"}},
		{"/a:b", place{path: "/a:b"}},
		{":a", place{path: ":a"}},
		{"--", place{path: "--"}},
		{"", place{}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, parsePlace(tt.in), cmp.AllowUnexported(place{})); diff != "" {
			t.Errorf("parsePlace(%q) (-want +got):\n%s", tt.in, diff)
		}
	}
}

func TestExpandEnv(t *testing.T) {
	a := &app{Process: Process{Getenv: func(k string) string { return map[string]string{"HERE": "x y"}[k] }}}
	got := a.expandEnv([]string{"A=b", "HERE", "GONE", "EMPTY=", "C=d=e"})
	if diff := cmp.Diff([]string{"A=b", "HERE=x y", "EMPTY=", "C=d=e"}, got); diff != "" {
		t.Errorf("expandEnv (-want +got):\n%s", diff)
	}
}

func TestLines(t *testing.T) {
	tests := []struct {
		name   string
		events []api.Progress
		want   string
	}{
		{"Short", []api.Progress{{Stage: "a", State: api.ProgressRunning}, {Stage: "a", State: api.ProgressDone, ElapsedMS: 9}}, ""},
		{"Done", []api.Progress{{Stage: "a", State: api.ProgressDone, ElapsedMS: 10}}, "a: 10 ms\n"},
		{"Amount", []api.Progress{{Stage: "a", State: api.ProgressDone, ElapsedMS: 2500, DoneBytes: 3 << 20}}, "a: 2.5 s, 3MiB\n"},
		{"Minutes", []api.Progress{{Stage: "a", State: api.ProgressDone, ElapsedMS: 61_400}}, "a: 1m1s\n"},
		{"Failed", []api.Progress{{Stage: "a", State: api.ProgressFailed, ElapsedMS: 5}}, "a: failed after 5 ms\n"},
		{"LongIsAnnouncedOnce", []api.Progress{
			{Stage: "a", State: api.ProgressRunning, ElapsedMS: 2000},
			{Stage: "a", State: api.ProgressRunning, ElapsedMS: 2001, Detail: "b of c"},
			{Stage: "a", State: api.ProgressRunning, ElapsedMS: 3000},
			{Stage: "a", State: api.ProgressDone, ElapsedMS: 4000},
		}, "a ... b of c\na: 4.0 s\n"},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		d := prefixed(&lines{out: &out, announced: map[string]bool{}}, "web", 1)
		for _, e := range tt.events {
			d(e)
		}
		if diff := cmp.Diff(tt.want, out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestPrefixed(t *testing.T) {
	for of, want := range map[int]string{1: "boot: 1.0 s\n", 2: "web: boot: 1.0 s\n"} {
		var out bytes.Buffer
		prefixed(&lines{out: &out, announced: map[string]bool{}}, "web", of)(api.Progress{Stage: "boot", State: api.ProgressDone, ElapsedMS: 1000})
		if out.String() != want {
			t.Errorf("of %d: %q, want %q", of, out.String(), want)
		}
	}
}

func TestWords(t *testing.T) {
	long := strings.Repeat("ä", 100)
	if got := short(long, 60); utf8.RuneCountInString(got) != 60 || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
		t.Errorf("short = %q", got)
	}
	for got, want := range map[string]string{
		short("abc", 3): "abc", sizeMiB(1024): "1GiB", size(0): "0B", shortID("0123456789abcdef"): "0123456789ab", shortID("012"): "012",
		seconds(999 * time.Millisecond): "999 ms", seconds(1500 * time.Millisecond): "1.5 s", seconds(90 * time.Second): "1m30s",
		age(nil): "-", age(new(time.Time)): "-", names(nil): "-", names([]string{"a", "b"}): "a, b",
		stateWords(api.Machine{State: api.StateStopped, Reason: "stopped"}): "stopped",
		stateWords(api.Machine{State: api.StateStopped, Reason: "x"}):       "stopped (x)",
		stateWords(api.Machine{State: api.StateStarting}):                   "starting",
		ofTotal(1<<20, 1<<30): "1MiB of 1GiB",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
