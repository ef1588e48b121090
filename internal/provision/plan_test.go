package provision

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/download"
	"banger/internal/hostinfo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings are the defaults.
func settings(t *testing.T) config.Config {
	t.Helper()
	c, _, err := config.Load(func(name string) string {
		return map[string]string{"HOME": t.TempDir()}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// show prints a plan: each step with what it is told, the packages by their number.
func show(p Plan) string {
	var out strings.Builder
	for _, s := range p.steps {
		fmt.Fprintf(&out, "%s:", s.name)
		for _, kv := range s.env {
			if name, value, _ := strings.Cut(kv, "="); name == "PACKAGES" {
				kv = fmt.Sprintf("PACKAGES=%d", len(strings.Fields(value)))
			}
			if kv != "INPUTS="+inputsDir {
				fmt.Fprintf(&out, " %q", kv)
			}
		}
		if s.booted {
			out.WriteString(" booted")
		}
		out.WriteString("\n")
	}
	for _, in := range p.inputs {
		switch in := in.(type) {
		case program:
			fmt.Fprintf(&out, "<- bin/%s %s\n", in.name, in.key)
		case hostFile:
			fmt.Fprintf(&out, "<- %s %s\n", in.at, filepath.Base(in.path))
		}
	}
	for _, s := range p.Services {
		fmt.Fprintf(&out, "service %s %d %s\n", s.Name, s.Port, s.Path)
	}
	return out.String()
}

func TestNewPlan(t *testing.T) {
	dir := t.TempDir()
	script, plain := filepath.Join(dir, "set up.sh"), filepath.Join(dir, "plain")
	for path, text := range map[string]string{script: "#!/bin/bash\n", plain: "x"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name   string
		want   api.BuildImage
		change func(*config.Config)
		plan   string
	}{
		{"Base", api.BuildImage{}, nil, `mount:
base:
packages: "PACKAGES=10" "MIRROR="
modules:
cleanup: booted
`},
		{"Packages", api.BuildImage{Packages: []string{"jq", "curl", "g++", "libc6:i386", "git=1:2.4-1"}}, nil, `mount:
base:
packages: "PACKAGES=14" "MIRROR="
modules:
cleanup: booted
`},
		{
			"AgentWithDocker",
			api.BuildImage{Preset: "agent", Docker: true},
			func(c *config.Config) {
				c.DebianMirror, c.DockerRepository = "http://mirror/debian/", "https://docker/"
				c.TmuxTPM, c.TmuxContinuum = "file:///srv/tpm#v1", "/srv/continuum.git"
			},
			`mount:
base:
packages: "PACKAGES=25" "MIRROR=http://mirror/debian"
modules:
mise:
opencode: "PORT=4096"
tmux: "PLUGINS=tpm file:///srv/tpm v1 git/tpm\ntmux-resurrect https://github.com/tmux-plugins/tmux-resurrect v4.0.0 -\ntmux-continuum /srv/continuum.git - git/tmux-continuum"
docker: "REPOSITORY=https://docker"
cleanup: booted
<- bin/mise sources.mise
<- bin/opencode sources.opencode
<- git/tpm tpm
<- git/tmux-continuum continuum.git
service opencode 4096 /
`,
		},
		{"FilesThenScripts", api.BuildImage{
			Scripts: []string{script, plain}, Files: []api.BuildFile{{Host: plain, Guest: "/etc/a b"}, {Host: dir, Guest: "/srv/"}},
		}, nil, `mount:
base:
packages: "PACKAGES=10" "MIRROR="
modules:
copy a b: "FILE=files/0/plain" "TARGET=/etc/a b"
copy srv: "FILE=files/1/` + filepath.Base(dir) + `" "TARGET=/srv/"
script set up.sh: "DEBIAN_FRONTEND=noninteractive"
script plain: "DEBIAN_FRONTEND=noninteractive"
cleanup: booted
<- files/0/plain plain
<- files/1/` + filepath.Base(dir) + " " + filepath.Base(dir) + `
<- scripts/0/set up.sh set up.sh
<- scripts/1/plain plain
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := settings(t)
			if tt.change != nil {
				tt.change(&c)
			}
			got, err := NewPlan(tt.want, c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.plan, show(got)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			for _, s := range got.steps {
				if s.name == "script plain" && s.argv[0] != "sh" || s.name == "script set up.sh" && len(s.argv) != 1 {
					t.Errorf("%s is run by %q", s.name, s.argv)
				}
			}
		})
	}
}

func TestNewPlanErr(t *testing.T) {
	large := filepath.Join(t.TempDir(), "large")
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, maxScriptBytes+1)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		want    api.BuildImage
		change  func(*config.Config)
		wantErr string
	}{
		{"Preset", api.BuildImage{Preset: "../base"}, nil, `unknown preset "../base"`},
		{"PackageOption", api.BuildImage{Packages: []string{"--allow-unauthenticated"}}, nil, "is no name of a package"},
		{"PackageShell", api.BuildImage{Packages: []string{"jq;reboot"}}, nil, "is no name of a package"},
		{"PackageRemoval", api.BuildImage{Packages: []string{"systemd-"}}, nil, "is no name of a package"},
		{"PackageEmpty", api.BuildImage{Packages: []string{""}}, nil, "is no name of a package"},
		{"Packages", api.BuildImage{Packages: slices.Repeat([]string{"jq"}, maxPackages+1)}, nil, "at most 1000"},
		{"FileRelative", api.BuildImage{Files: []api.BuildFile{{Host: "x", Guest: "/x"}}}, nil, "must be absolute"},
		{"FileGuestRelative", api.BuildImage{Files: []api.BuildFile{{Host: "/etc/passwd", Guest: "x"}}}, nil, "must be absolute"},
		{"FileMissing", api.BuildImage{Files: []api.BuildFile{{Host: "/no/file", Guest: "/x"}}}, nil, "no such file"},
		{"ScriptMissing", api.BuildImage{Scripts: []string{"/no/script"}}, nil, "no such file"},
		{"ScriptFolder", api.BuildImage{Scripts: []string{"/etc"}}, nil, "regular file"},
		{"ScriptLarge", api.BuildImage{Scripts: []string{large}}, nil, "regular file of at most"},
		{"ScriptRelative", api.BuildImage{Scripts: []string{"x.sh"}}, nil, "must be absolute"},
		{"SourceMise", api.BuildImage{Preset: "dev"}, func(c *config.Config) { c.Mise = "npm:mise" }, "setting sources.mise"},
		{"SourceTmux", api.BuildImage{Preset: "dev"}, func(c *config.Config) { c.TmuxTPM = "-u x" }, "setting sources.tmux_tpm"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := settings(t)
			if tt.change != nil {
				tt.change(&c)
			}
			if _, err := NewPlan(tt.want, c); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
		})
	}
}

func TestParseRepository(t *testing.T) {
	tests := []struct {
		text string
		want repository
		ok   bool
	}{
		{"https://h/p#v1.2", repository{"https://h/p", "", "v1.2"}, true},
		{"ssh://git@h/p", repository{"ssh://git@h/p", "", ""}, true},
		{"/srv/p.git/", repository{"/srv/p.git/", "/srv/p.git", ""}, true},
		{"file:///srv/p#main", repository{"file:///srv/p", "/srv/p", "main"}, true},
		{"file://p", repository{}, false},
		{"srv/p", repository{}, false},
		{"https://", repository{}, false},
		{"ext::sh -c reboot", repository{}, false},
		{"https://h/p#--upload-pack=x", repository{}, false},
		{"https://h/p q", repository{}, false},
	}
	for _, tt := range tests {
		got, err := parseRepository(tt.text)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q is %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
}

func FuzzParseRepository(f *testing.F) {
	f.Add("https://h/p#v1.2")
	f.Add("file:///srv/p")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRepository(text)
		if err == nil && (strings.ContainsAny(r.url+r.ref, " \n") || strings.HasPrefix(r.url, "-") || strings.HasPrefix(r.ref, "-")) {
			t.Errorf("%q is taken as %+v", text, r)
		}
	})
}

func TestPresets(t *testing.T) {
	files, err := presetFiles.ReadDir("presets")
	if err != nil || len(files) != len(api.Presets) {
		t.Errorf("%d files of presets, %v; want %d", len(files), err, len(api.Presets))
	}
	for _, preset := range api.Presets {
		name := string(preset.Name)
		p, err := readPreset(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkPackages(p.packages); err != nil || len(p.packages) == 0 || !slices.IsSorted(p.packages) {
			t.Errorf("packages of %s: %v, %q", name, err, p.packages)
		}
		if Stale(name, p.sha256) || !Stale(name, "of another time") {
			t.Errorf("preset %s does not know its own hash", name)
		}
	}
	if Stale("", "") || !Stale("gone", "x") {
		t.Error("an image without a preset is stale, or one of a preset that is gone is not")
	}
}

// The hash of the inputs says whether a build would do anything else, so it must see each of these,
// and no times.
func TestInputsSHA256(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("one", 0o644)
	hash := func(want api.BuildImage, image string, change func(*config.Config)) string {
		t.Helper()
		c := settings(t)
		if change != nil {
			change(&c)
		}
		p, err := NewPlan(want, c)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := p.InputsSHA256(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	want := api.BuildImage{Preset: "agent", Files: []api.BuildFile{{Host: dir, Guest: "/srv"}}}
	first := hash(want, "image", nil)
	if err := os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if again := hash(want, "image", nil); again != first {
		t.Error("another time of a file changes the hash")
	}
	seen := map[string]string{first: "the first"}
	differs := func(what, sum string) {
		t.Helper()
		if before := seen[sum]; before != "" {
			t.Errorf("%s has the hash of %s", what, before)
		}
		seen[sum] = what
	}
	differs("another image", hash(want, "other", nil))
	differs("another source", hash(want, "image", func(c *config.Config) { c.Opencode = "npm:opencode@1.0.0" }))
	differs("another mirror", hash(want, "image", func(c *config.Config) { c.DebianMirror = "http://mirror" }))
	more := want
	more.Packages = []string{"jq", "mc"}
	differs("one more package", hash(more, "image", nil))
	write("two", 0o644)
	differs("another content", hash(want, "image", nil))
	write("two", 0o755)
	differs("another mode", hash(want, "image", nil))
	if err := os.Rename(file, file+"2"); err != nil {
		t.Fatal(err)
	}
	differs("another name", hash(want, "image", nil))
}

// The drive holds programs, files and scripts where the steps look for them.
func TestMakeInputs(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{"tree/a/deep": "deep", "script.sh": "#!/bin/sh\n", "tool": "the tool"} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := NewPlan(api.BuildImage{
		Files: []api.BuildFile{{Host: filepath.Join(dir, "tree"), Guest: "/srv"}}, Scripts: []string{filepath.Join(dir, "script.sh")},
	}, settings(t))
	if err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(dir, "tool")
	p.inputs = append(p.inputs, program{name: "tool", path: &tool})
	drive := filepath.Join(dir, "inputs.ext4")
	if err := p.MakeInputs(t.Context(), drive); err != nil {
		t.Fatal(err)
	}
	if label, err := disk.Label(drive); label != InputsLabel || err != nil {
		t.Errorf("label %q, %v", label, err)
	}
	debugfs, err := hostinfo.FindTool("debugfs", "e2fsprogs")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"files/0/tree/a/deep": "deep", "scripts/0/script.sh": "#!/bin/sh\n", "bin/tool": "the tool"} {
		out, err := exec.CommandContext(t.Context(), debugfs, "-R", "cat "+path, drive).Output()
		if err != nil || string(out) != want {
			t.Errorf("%s holds %q, %v; want %q", path, out, err, want)
		}
	}
	for _, path := range []string{"scripts/0/script.sh", "bin/tool"} {
		out, err := exec.CommandContext(t.Context(), debugfs, "-R", "stat "+path, drive).Output()
		if err != nil || !strings.Contains(string(out), "Mode:  0755") {
			t.Errorf("%s is not executable: %v\n%s", path, err, out)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	if err := p.MakeInputs(t.Context(), drive+"2"); err == nil || !strings.Contains(err.Error(), "file for the image: read "+dir) {
		t.Errorf("a file that is gone: %v", err)
	}
	if _, err := os.Stat(drive + "2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a drive is left: %v", err)
	}
}

func TestFetchSaysWhatToSet(t *testing.T) {
	source, err := download.Parse("npm:tool@1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	p := Plan{inputs: []input{program{name: "mise", key: "sources.mise", source: source, path: new(string)}}}
	err = p.Fetch(t.Context(), &download.Cache{Dir: t.TempDir(), Registry: "http://127.0.0.1:1", Backoff: time.Millisecond})
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Code != api.CodeUnavailable || !strings.Contains(e.Message, "step mise: download npm:tool@1.0.0") || !strings.Contains(e.Hint, "set sources.mise") {
		t.Errorf("error %#v", err)
	}
}
