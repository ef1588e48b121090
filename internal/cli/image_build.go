package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

// buildFile is what banger.toml holds: the command's flags under their own names, and the image's.
type buildFile struct {
	Name    string   `toml:"name"`
	From    string   `toml:"from"`
	Preset  string   `toml:"preset"`
	Package []string `toml:"package"`
	Docker  bool     `toml:"docker"`
	Size    string   `toml:"size"`
	Script  []string `toml:"script"`
	File    []string `toml:"file"`
	CPUs    int      `toml:"cpus"`
	Memory  string   `toml:"memory"`
	Keep    bool     `toml:"keep-on-failure"`
}

func (a *app) imageBuildCommand() *cobra.Command {
	var flags buildFile
	var file string
	var force bool
	cmd := &cobra.Command{
		Use:   "build [NAME]",
		Short: "Make an image inside a machine that is thrown away afterwards",
		Long: `Boot a machine on a copy of an image, provision it as root, and keep its disk as the image NAME.

The presets, each with all of the one before:

` + presetList() + `
Files are copied before scripts run; both as root, in the order given.

An image of that name that was made from the same inputs is kept as it is; --force builds it anew, with the
packages that the archive has now. Where downloads come from are the settings sources.*: banger config show.

The same flags can stand in a file (-f banger.toml), with paths relative to it; flags given here come first:

  name = "mine"
  preset = "agent"
  package = ["postgresql", "redis-server"]
  docker = true
  script = ["setup.sh"]
  file = ["conf/app.toml:/etc/app.toml"]`,
		Example: `  banger image build web --package nginx --script setup.sh
  banger image build agent --preset agent --docker --memory 4GiB
  banger image build -f banger.toml`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			want, err := a.buildRequest(cmd, given, flags, file)
			if err != nil {
				return err
			}
			want.Force, want.From = force, cmp.Or(want.From, a.config.Image)
			want.CPUs, want.MemoryMiB = cmp.Or(want.CPUs, a.config.CPUs), cmp.Or(want.MemoryMiB, a.config.MemoryMiB)
			want.KernelDefault, want.Sources = a.config.Kernel, config.BuildSources(a.settings)
			want.BootTimeoutMS, want.StopTimeoutMS = a.config.BootTimeout.Milliseconds(), a.config.StopTimeout.Milliseconds()
			display := a.newDisplay()
			image, err := a.client.BuildImage(cmd.Context(), want, display.show, display.say)
			display.close()
			return show(a, image, err, func(api.Image) error {
				_, err := fmt.Fprintln(a.Stdout, want.Name)
				return err
			})
		},
	}
	flags.register(a, cmd)
	cmd.Flags().StringVarP(&file, "config", "f", "", "read what is not given here from this file, such as banger.toml")
	cmd.Flags().BoolVar(&force, "force", false, "build also when the image was made from the same inputs")
	return cmd
}

// presetList tells the presets, a line each.
func presetList() string {
	var list strings.Builder
	for _, p := range api.Presets {
		fmt.Fprintf(&list, "  %-6s  %s\n", p.Name, p.Adds)
	}
	return list.String()
}

func presetNames() (names []string) {
	for _, p := range api.Presets {
		names = append(names, string(p.Name))
	}
	return names
}

func (f *buildFile) register(a *app, cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.From, "from", "", "image to start from (default from the settings)")
	set.StringVar(&f.Preset, "preset", "", "what is installed besides what is given here (default "+presetNames()[0]+")")
	set.StringArrayVar(&f.Package, "package", nil, "package to install besides the preset's; many")
	set.BoolVar(&f.Docker, "docker", false, "install Docker")
	set.StringVar(&f.Size, "size", "", "size of the root while it is built; the image only takes what it holds (default 8GiB)")
	set.StringArrayVar(&f.Script, "script", nil, "script of this host to run in the machine; many")
	set.StringArrayVar(&f.File, "file", nil, "file or folder to copy, HOST:GUEST; many")
	set.IntVarP(&f.CPUs, "cpus", "c", 0, "number of CPUs of the machine (default from the settings)")
	set.StringVarP(&f.Memory, "memory", "m", "", "memory of the machine (default from the settings)")
	set.BoolVar(&f.Keep, "keep-on-failure", false, "keep the machine when the build fails, to look around in it")
	registerCompletion(cmd, "from", a.completeImages)
	registerCompletion(cmd, "preset", cobra.FixedCompletions(presetNames(), cobra.ShellCompDirectiveNoFileComp))
}

// buildRequest joins the flags and the file into what the API takes.
func (a *app) buildRequest(cmd *cobra.Command, given []string, flags buildFile, file string) (api.BuildImage, error) {
	here, err := os.Getwd()
	if err != nil {
		return api.BuildImage{}, err
	}
	if err := flags.makeAbsolute(here); err != nil {
		return api.BuildImage{}, badUsage(cmd, "%w", err)
	}
	if file != "" {
		read, err := readBuildFile(file)
		if err != nil {
			return api.BuildImage{}, err
		}
		flags = read.overriddenBy(flags, cmd.Flags().Changed)
	}
	if len(given) > 0 {
		flags.Name = given[0]
	}
	if flags.Name == "" {
		return api.BuildImage{}, badUsage(cmd, "the image needs a name, here or in the file")
	}
	return flags.request(cmd)
}

const maxBuildFileBytes = 1 << 20

// readBuildFile reads banger.toml. Its paths are relative to it; those in what it returns are
// absolute.
func readBuildFile(path string) (buildFile, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return buildFile{}, err
	}
	file, err := os.Open(path)
	if err != nil {
		return buildFile{}, api.Errorf(api.CodeInvalid, "read build file: %w", err).WithHint("see its keys: banger image build --help")
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxBuildFileBytes))
	if err != nil {
		return buildFile{}, fmt.Errorf("read %s: %w", path, err)
	}
	read, err := parseBuildFile(text)
	if err == nil {
		err = read.makeAbsolute(filepath.Dir(path))
	}
	if err != nil {
		return buildFile{}, api.Errorf(api.CodeInvalid, "read %s: %w", path, err)
	}
	return read, nil
}

// parseBuildFile reads the text of banger.toml; unknown keys are errors, so that a typing mistake
// is not silently left out.
func parseBuildFile(text []byte) (f buildFile, err error) {
	decoder := toml.NewDecoder(strings.NewReader(string(text))).DisallowUnknownFields()
	err = decoder.Decode(&f)
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
		return f, fmt.Errorf(
			"unknown key %q; the keys are the flags of banger image build, and name",
			strings.Join(strict.Errors[0].Key(), "."),
		)
	}
	return f, err
}

// makeAbsolute makes paths of this host absolute: the daemon works in another folder.
func (f *buildFile) makeAbsolute(dir string) error {
	for i, script := range f.Script {
		f.Script[i] = below(dir, script)
	}
	for i, file := range f.File {
		at := strings.LastIndex(file, ":/") // the host's path may hold a colon
		if at <= 0 {
			return fmt.Errorf("file %q is not HOST:GUEST with an absolute path in the guest", file)
		}
		f.File[i] = below(dir, file[:at]) + file[at:]
	}
	return nil
}

func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// overriddenBy replaces what was given as a flag; lists are replaced as a whole.
func (f buildFile) overriddenBy(flags buildFile, given func(flag string) bool) buildFile {
	for flag, take := range map[string]func(){
		"from": func() { f.From = flags.From }, "preset": func() { f.Preset = flags.Preset },
		"package": func() { f.Package = flags.Package },
		"docker":  func() { f.Docker = flags.Docker }, "size": func() { f.Size = flags.Size }, "script": func() { f.Script = flags.Script },
		"file": func() { f.File = flags.File }, "cpus": func() { f.CPUs = flags.CPUs }, "memory": func() { f.Memory = flags.Memory },
		"keep-on-failure": func() { f.Keep = flags.Keep },
	} {
		if given(flag) {
			take()
		}
	}
	return f
}

func (f buildFile) request(cmd *cobra.Command) (api.BuildImage, error) {
	want := api.BuildImage{
		Name: f.Name, From: f.From, Preset: api.Preset(f.Preset), Packages: f.Package, Docker: f.Docker,
		Scripts: f.Script, CPUs: f.CPUs, KeepOnFailure: f.Keep,
	}
	for _, size := range []struct {
		flag, text string
		to         *int
	}{{"size", f.Size, &want.SizeMiB}, {"memory", f.Memory, &want.MemoryMiB}} {
		if size.text == "" {
			continue
		}
		mib, err := config.ParseMiB(size.text)
		if err != nil {
			return want, badUsage(cmd, "--%s: %w", size.flag, err)
		}
		*size.to = mib
	}
	for _, file := range f.File {
		at := strings.LastIndex(file, ":/") // which makeAbsolute has seen
		want.Files = append(want.Files, api.BuildFile{Host: file[:at], Guest: file[at+1:]})
	}
	return want, nil
}

func (a *app) imageLogsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:               "logs NAME",
		Short:             "Show the log of an image's last build",
		Example:           "  banger image logs web\n  banger image logs -f web",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, given []string) error {
			log, err := a.client.BuildLog(cmd.Context(), api.BuildLog{Image: given[0], Follow: follow})
			if err != nil {
				return err
			}
			defer log.Close()
			if _, err := io.Copy(a.Stdout, log); err != nil {
				return fmt.Errorf("read build log: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, until the build ends")
	return cmd
}
