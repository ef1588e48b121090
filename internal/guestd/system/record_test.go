package system

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boot.json")
	want := Record{Init: InitSystemd}
	want.Add("find disks", time.Second, 1500*time.Millisecond)
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || got.Stages[0].Duration != 500*time.Millisecond {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReadRecordErrors(t *testing.T) {
	dir := t.TempDir()
	tests := []struct{ name, content, want string }{
		{"ErrLong", strings.Repeat(" ", maxRecordBytes+1), "more than 65536 bytes"},
		{"ErrEmpty", "", "decode " + dir + "/ErrEmpty"},
		{"ErrCutShort", `{"init":"systemd","stages":[{"name"`, "unexpected end of JSON input"},
		{"ErrWrongType", `{"stages":7}`, "cannot unmarshal number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, tt.name)
			if err := os.WriteFile(path, []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadRecord(path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := ReadRecord(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v, want ErrNotExist", err)
	}
}

func TestUptime(t *testing.T) {
	first, second := Uptime(), Uptime()
	if first <= 0 || second < first {
		t.Errorf("got %v, then %v", first, second)
	}
}
