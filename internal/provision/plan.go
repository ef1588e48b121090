// Package provision makes an image out of a running VM: which steps a build has, what each of them
// is given, and running them through the agent.
//
// A step is one shell script of steps/, idempotent, that takes what it needs from its environment.
// What comes from the host (programs, repositories, the user's files) lies on a read-only drive of
// its own, which the first step mounts at $INPUTS: the guest itself needs nothing but its package
// archive.
package provision

import (
	"cmp"
	"embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/config"
	"banger/internal/download"
)

const (
	// InputsLabel is the ext4 label by which the guest finds the drive.
	InputsLabel = "banger-inputs"
	inputsDir   = "/run/banger-inputs" // where the drive is mounted in the guest

	opencodePort = 4096

	maxPackages = 1000
	maxScripts  = 100
	maxFiles    = 1000
	// maxScriptBytes is far above what anybody writes by hand.
	maxScriptBytes = 1 << 20
)

//go:embed steps/*.sh
var stepFiles embed.FS

// Plan is a build, ready to be run. Nothing of it was fetched or started yet.
type Plan struct {
	Preset       string
	PresetSHA256 string
	Packages     []string           // asked of the package manager: the preset's and the user's
	Services     []api.ImageService // that the image's machines will listen with
	steps        []step
	inputs       []input
}

// step is one script and what it is told.
type step struct {
	name    string // as the progress, the log and an error show it
	argv    []string
	env     []string
	booted  bool     // runs when the guest's init has finished, not before
	sources []string // settings that say where it takes things from
}

// NewPlan checks what is asked for and says how it is done, with c's sources.
func NewPlan(want api.BuildImage, c config.Config) (Plan, error) {
	name := string(cmp.Or(want.Preset, api.Presets[0].Name))
	preset, err := readPreset(name)
	if err != nil {
		return Plan{}, err
	}
	if err := checkPackages(want.Packages); err != nil {
		return Plan{}, err
	}
	p := Plan{Preset: name, PresetSHA256: preset.sha256, Packages: append(slices.Clone(preset.packages), want.Packages...)}
	slices.Sort(p.Packages)
	p.Packages = slices.Compact(p.Packages)
	mirror := c.DebianMirror
	if mirror == config.DefaultDebianMirror {
		mirror = "" // what the image has itself
	}
	p.script(step{name: "mount"})
	p.script(step{name: "base"})
	p.script(
		step{
			name:    "packages",
			env:     []string{"PACKAGES=" + strings.Join(p.Packages, " "), "MIRROR=" + strings.TrimRight(mirror, "/")},
			sources: []string{"sources.debian_mirror"},
		},
	)
	p.script(step{name: "modules"})
	for _, name := range preset.steps {
		if err := p.optional(name, c); err != nil {
			return Plan{}, err
		}
	}
	if want.Docker {
		p.script(
			step{
				name:    "docker",
				env:     []string{"REPOSITORY=" + strings.TrimRight(c.DockerRepository, "/")},
				sources: []string{"sources.debian_mirror", "sources.docker_repository"},
			},
		)
	}
	if err := p.addFiles(want.Files); err != nil {
		return Plan{}, err
	}
	if err := p.addScripts(want.Scripts); err != nil {
		return Plan{}, err
	}
	p.script(step{name: "cleanup", booted: true}) // services that still start would write what it has taken away
	return p, nil
}

// script adds a step of steps/ under the step's own name.
func (p *Plan) script(s step) {
	text, err := stepFiles.ReadFile("steps/" + s.name + ".sh")
	if err != nil {
		panic(err) // a mistake in this package
	}
	s.argv = []string{"sh", "-c", string(text), s.name}
	s.env = append(s.env, "INPUTS="+inputsDir)
	p.steps = append(p.steps, s)
}

// optional adds a step that a preset names.
func (p *Plan) optional(name string, c config.Config) error {
	switch name {
	case "mise":
		return p.program(step{name: name}, "sources.mise", c.Mise)
	case "opencode":
		p.Services = append(p.Services, api.ImageService{Name: name, Port: opencodePort, Path: "/", Health: "/global/health"})
		return p.program(step{name: name, env: []string{"PORT=" + strconv.Itoa(opencodePort)}}, "sources.opencode", c.Opencode)
	case "tmux":
		return p.tmux(c)
	}
	return fmt.Errorf("the preset names a step %q that there is not", name)
}

// program adds a step that installs the program of its own name.
func (p *Plan) program(s step, key, source string) error {
	parsed, err := download.Parse(source)
	if err != nil {
		return fmt.Errorf("setting %s: %w", key, err)
	}
	s.sources = []string{key}
	p.inputs = append(p.inputs, program{name: s.name, key: key, source: parsed, path: new(string)})
	p.script(s)
	return nil
}

// tmux adds the step that clones tmux's plugins. A repository on this host goes along as an input;
// others the guest clones itself.
func (p *Plan) tmux(c config.Config) error {
	s := step{name: "tmux"}
	var lines []string
	for _, plugin := range []struct{ name, key, source string }{
		{"tpm", "sources.tmux_tpm", c.TmuxTPM},
		{"tmux-resurrect", "sources.tmux_resurrect", c.TmuxResurrect},
		{"tmux-continuum", "sources.tmux_continuum", c.TmuxContinuum},
	} {
		repo, err := parseRepository(plugin.source)
		if err != nil {
			return fmt.Errorf("setting %s: %w", plugin.key, err)
		}
		copied := "-"
		if repo.folder != "" {
			copied = "git/" + plugin.name
			p.inputs = append(p.inputs, hostFile{at: copied, path: repo.folder, why: "setting " + plugin.key})
		}
		lines = append(lines, strings.Join([]string{plugin.name, repo.url, cmp.Or(repo.ref, "-"), copied}, " "))
		s.sources = append(s.sources, plugin.key)
	}
	s.env = []string{"PLUGINS=" + strings.Join(lines, "\n")}
	p.script(s)
	return nil
}

// repository is where a git repository is cloned from.
type repository struct {
	url    string
	folder string // on this host; empty for one of the net
	ref    string // branch, tag or commit; empty for the default branch
}

var gitRef = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)

// parseRepository reads URL[#REF] of a git repository; file:///PATH and an absolute path are on
// this host.
func parseRepository(text string) (repository, error) {
	url, ref, _ := strings.Cut(text, "#")
	bad := func(why string) (repository, error) {
		return repository{}, api.Errorf(api.CodeInvalid, "git repository %q %s", text, why).
			WithHint("write it as https://HOST/PATH, file:///PATH or ssh://HOST/PATH, with #REF behind it for a branch, tag or commit")
	}
	if ref != "" && !gitRef.MatchString(ref) {
		return bad("ends in no branch, tag or commit")
	}
	if strings.ContainsAny(url, " \t\n") {
		return bad("holds spaces")
	}
	if folder, ok := strings.CutPrefix(url, "file://"); ok || strings.HasPrefix(url, "/") {
		folder = filepath.Clean(folder)
		if !ok {
			folder = filepath.Clean(url)
		}
		if !filepath.IsAbs(folder) {
			return bad("is no absolute path")
		}
		return repository{url: url, folder: folder, ref: ref}, nil
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok || rest == "" || !slices.Contains([]string{"https", "http", "git", "ssh"}, scheme) {
		return bad("is neither a URL nor an absolute path")
	}
	return repository{url: url, ref: ref}, nil
}

// packageName is what Debian allows, with an architecture, a version or a target release behind it.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~-]+)?$`)

func checkPackages(names []string) error {
	if len(names) > maxPackages {
		return api.Errorf(api.CodeInvalid, "%d packages: at most %d", len(names), maxPackages)
	}
	for _, name := range names {
		if !packageName.MatchString(name) || strings.HasSuffix(name, "-") ||
			strings.HasSuffix(name, "+") && !strings.HasSuffix(name, "++") {
			return api.Errorf(api.CodeInvalid, "%q is no name of a package", name)
		}
	}
	return nil
}

func (p *Plan) addFiles(files []api.BuildFile) error {
	if len(files) > maxFiles {
		return api.Errorf(api.CodeInvalid, "%d files: at most %d", len(files), maxFiles)
	}
	for i, f := range files {
		if !filepath.IsAbs(f.Host) || !path.IsAbs(f.Guest) || strings.ContainsRune(f.Guest, 0) {
			return api.Errorf(api.CodeInvalid, "file %q for %q: both paths must be absolute", f.Host, f.Guest)
		}
		if _, err := os.Stat(f.Host); err != nil {
			return api.Errorf(api.CodeInvalid, "file for the image: %w", err)
		}
		at := "files/" + strconv.Itoa(i) + "/" + filepath.Base(f.Host)
		p.inputs = append(p.inputs, hostFile{at: at, path: f.Host, why: "file for the image"})
		p.script(step{name: "files", env: []string{"FILE=" + at, "TARGET=" + f.Guest}})
		p.steps[len(p.steps)-1].name = "copy " + path.Base(f.Guest)
	}
	return nil
}

func (p *Plan) addScripts(scripts []string) error {
	if len(scripts) > maxScripts {
		return api.Errorf(api.CodeInvalid, "%d scripts: at most %d", len(scripts), maxScripts)
	}
	for i, script := range scripts {
		if !filepath.IsAbs(script) {
			return api.Errorf(api.CodeInvalid, "script %q: its path must be absolute", script)
		}
		interpreted, err := hasInterpreter(script)
		if err != nil {
			return err
		}
		at := "scripts/" + strconv.Itoa(i) + "/" + filepath.Base(script)
		argv := []string{inputsDir + "/" + at}
		if !interpreted {
			argv = []string{"sh", argv[0]}
		}
		p.inputs = append(p.inputs, hostFile{at: at, path: script, why: "script", program: true})
		p.steps = append(
			p.steps,
			step{
				name: "script " + filepath.Base(script),
				argv: argv,
				env:  []string{"INPUTS=" + inputsDir, "DEBIAN_FRONTEND=noninteractive"},
			},
		)
	}
	return nil
}

// hasInterpreter reports whether a script begins with #!.
func hasInterpreter(script string) (bool, error) {
	file, err := os.Open(script)
	if err != nil {
		return false, api.Errorf(api.CodeInvalid, "read script: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxScriptBytes {
		return false, api.Errorf(api.CodeInvalid, "script %s: want a regular file of at most %d bytes", script, maxScriptBytes)
	}
	begin := make([]byte, 2)
	n, _ := file.ReadAt(begin, 0) // a shorter file has no interpreter
	return n == 2 && string(begin) == "#!", nil
}
