package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"banger/api"
)

// buildCommand parses a command line of image build without running it.
func buildCommand(t *testing.T, args ...string) (*cobra.Command, buildFile) {
	t.Helper()
	a := &app{Process: Process{Getenv: func(string) string { return "" }}}
	var flags buildFile
	cmd := &cobra.Command{Use: "build"}
	flags.register(a, cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return cmd, flags
}

func TestBuildRequest(t *testing.T) {
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	const all = `
name = "mine"
from = "debian:bookworm"
preset = "agent"
package = ["a", "b"]
docker = true
size = "16GiB"
script = ["sub/x.sh", "/abs.sh"]
file = ["conf:/etc/conf", "/a:b/c:/srv/"]
cpus = 4
memory = "2GiB"
keep-on-failure = true
`
	tests := []struct {
		name  string
		file  string
		given []string
		flags []string
		want  api.BuildImage
	}{
		{"Flags", "", []string{"web"}, []string{"--package", "nginx", "--script", "x.sh", "--file", "c:/etc/c", "--size", "4GiB"}, api.BuildImage{
			Name: "web", Packages: []string{"nginx"}, Scripts: []string{filepath.Join(here, "x.sh")}, SizeMiB: 4096,
			Files: []api.BuildFile{{Host: filepath.Join(here, "c"), Guest: "/etc/c"}},
		}},
		{"File", all, nil, nil, api.BuildImage{
			Name: "mine", From: "debian:bookworm", Preset: "agent", Packages: []string{"a", "b"}, Docker: true, SizeMiB: 16384,
			Scripts: []string{filepath.Join(dir, "sub/x.sh"), "/abs.sh"}, CPUs: 4, MemoryMiB: 2048, KeepOnFailure: true,
			Files: []api.BuildFile{{Host: filepath.Join(dir, "conf"), Guest: "/etc/conf"}, {Host: "/a:b/c", Guest: "/srv/"}},
		}},
		{"FlagsComeFirst", all, []string{"other"}, []string{"--preset", "base", "--docker=false", "--package", "c", "--script", "/s", "--file", "/f:/f", "--memory", "1GiB", "--from", "x", "--cpus", "1", "--keep-on-failure=false", "--size", "1GiB"}, api.BuildImage{
			Name: "other", From: "x", Preset: "base", Packages: []string{"c"}, Scripts: []string{"/s"}, Files: []api.BuildFile{{Host: "/f", Guest: "/f"}}, CPUs: 1, MemoryMiB: 1024, SizeMiB: 1024,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ""
			if tt.file != "" {
				path = filepath.Join(dir, "banger.toml")
				if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd, flags := buildCommand(t, tt.flags...)
			got, err := new(app).buildRequest(cmd, tt.given, flags, path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBuildRequestErr(t *testing.T) {
	path := filepath.Join(t.TempDir(), "banger.toml")
	tests := []struct {
		name, file string
		flags      []string
		wantErr    string
	}{
		{"NoName", "preset = 'dev'", nil, "needs a name"},
		{"UnknownKey", "name = 'x'\npackages = ['a']", nil, `unknown key "packages"`},
		{"WrongType", "name = 1", nil, "banger.toml"},
		{"NoTOML", "name", nil, "banger.toml"},
		{"RelativeGuest", "name = 'x'", []string{"--file", "a:b"}, "is not HOST:GUEST"},
		{"FileInFile", "name = 'x'\nfile = ['a']", nil, "is not HOST:GUEST"},
		{"Size", "name = 'x'\nsize = 'large'", nil, "--size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd, flags := buildCommand(t, tt.flags...)
			if _, err := new(app).buildRequest(cmd, nil, flags, path); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
		})
	}
	cmd, flags := buildCommand(t)
	if _, err := new(app).buildRequest(cmd, nil, flags, path+"x"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
}

func FuzzParseBuildFile(f *testing.F) {
	f.Add([]byte("name = 'x'\npackage = ['a']\nfile = ['a:/b']\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parseBuildFile(text)
		if err != nil || file.makeAbsolute("/d") != nil {
			return
		}
		for _, path := range append(file.Script, file.File...) {
			if !strings.HasPrefix(path, "/") {
				t.Errorf("%q stays relative", path)
			}
		}
	})
}
