package hostinfo

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"banger/api"
)

// program makes an executable file and returns its path.
func program(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostOf makes PATH and the system folders these two, until the test ends.
func hostOf(t *testing.T) (onPath, inSbin string) {
	t.Helper()
	onPath, inSbin = t.TempDir(), t.TempDir()
	t.Setenv("PATH", onPath)
	all := sbins
	sbins = []string{inSbin}
	t.Cleanup(func() { sbins = all })
	return onPath, inSbin
}

func TestLookPath(t *testing.T) {
	dir, sbin := hostOf(t)
	onPath, inSbin := program(t, dir, "a"), program(t, sbin, "b")
	program(t, sbin, "a")
	for name, want := range map[string]string{"a": onPath, "b": inSbin, inSbin: inSbin, "none": "", "/none": ""} {
		got, err := LookPath(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("LookPath(%q) = %q, %v; want %q", name, got, err, want)
		}
		if want == "" && !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("LookPath(%q) = %v", name, err)
		}
	}
}

// What is missing is told with the command that installs it here.
func TestFindTool(t *testing.T) {
	dir, sbin := hostOf(t)
	tool := program(t, sbin, "tool")
	if got, err := FindTool("tool", "some-package"); got != tool || err != nil {
		t.Errorf("FindTool = %q, %v; want %q", got, err, tool)
	}
	for _, tt := range []struct{ manager, want string }{
		{"", "install the package some-package"},
		{"apt-get", "sudo apt-get install some-package"},
		{"zypper", "sudo apt-get install some-package"}, // the first one found
	} {
		if tt.manager != "" {
			program(t, dir, tt.manager)
		}
		_, err := FindTool("no-such-tool", "some-package")
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != api.CodeUnavailable || e.Hint != tt.want {
			t.Errorf("with %q: error %v, hint %q; want %q", tt.manager, err, e.Hint, tt.want)
		}
	}
}
