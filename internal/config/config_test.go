package config

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"banger/api"
)

// env makes a getenv of a map.
func env(vars map[string]string) func(string) string {
	return func(key string) string { return vars[key] }
}

// load runs Load with a config.toml and an environment; the file's path is FILE in values and
// origins.
func load(t *testing.T, file string, vars map[string]string) (Config, map[string]api.Setting, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"HOME": "/h", "BANGER_CONFIG": path}
	maps.Copy(all, vars)
	c, shown, err := Load(env(all))
	byKey := map[string]api.Setting{}
	for _, s := range shown {
		s.Origin = strings.ReplaceAll(s.Origin, path, "FILE")
		byKey[s.Key] = s
	}
	return c, byKey, err
}

func TestLoadDefaults(t *testing.T) {
	got, shown, err := Load(env(map[string]string{"HOME": "/h"}))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Home: "/h/.local/share/banger", Image: "debian:trixie", Kernel: "debian:trixie", CPUs: 2, MemoryMiB: 1024, DiskMiB: 16384, VMM: "auto",
		Network: api.NetworkUser, Subnet: netip.MustParsePrefix("172.30.0.0/16"),
		BootTimeout: 2 * time.Minute, StopTimeout: time.Minute, DebianMirror: "http://deb.debian.org/debian", UbuntuMirror: "http://archive.ubuntu.com/ubuntu", KernelPackage: "linux-image-cloud-amd64",
		NPMRegistry: "https://registry.npmjs.org", Mise: defaultMise, Opencode: defaultOpencode,
		TmuxTPM: "https://github.com/tmux-plugins/tpm#v3.1.0", TmuxResurrect: "https://github.com/tmux-plugins/tmux-resurrect#v4.0.0",
		TmuxContinuum: "https://github.com/tmux-plugins/tmux-continuum#v3.1.0",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
	if len(shown) != len(settings) {
		t.Errorf("%d settings are shown, want %d", len(shown), len(settings))
	}
	for _, s := range shown {
		if s.Origin != "default" || s.Value == "" {
			t.Errorf("setting %+v: want a value by default", s)
		}
	}
}

func TestLoadPrecedence(t *testing.T) {
	tests := []struct {
		name string
		file string
		vars map[string]string
		key  string
		want api.Setting
	}{
		{"Default", "", nil, "cpus", api.Setting{Key: "cpus", Value: "2", Origin: "default"}},
		{"File", "cpus = 4", nil, "cpus", api.Setting{Key: "cpus", Value: "4", Origin: "FILE"}},
		{"FileText", `cpus = "4"`, nil, "cpus", api.Setting{Key: "cpus", Value: "4", Origin: "FILE"}},
		{"Variable", "", map[string]string{"BANGER_CPUS": "8"}, "cpus", api.Setting{Key: "cpus", Value: "8", Origin: "BANGER_CPUS"}},
		{"VariableOverFile", "cpus = 4", map[string]string{"BANGER_CPUS": "8"}, "cpus", api.Setting{Key: "cpus", Value: "8", Origin: "BANGER_CPUS"}},
		{"EmptyVariable", "cpus = 4", map[string]string{"BANGER_CPUS": ""}, "cpus", api.Setting{Key: "cpus", Value: "4", Origin: "FILE"}},
		{"Table", "[sources]\ndebian_mirror = 'http://m'", nil, "sources.debian_mirror", api.Setting{Key: "sources.debian_mirror", Value: "http://m", Origin: "FILE"}},
		{"DottedKey", "sources.debian_mirror = 'http://m'", nil, "sources.debian_mirror", api.Setting{Key: "sources.debian_mirror", Value: "http://m", Origin: "FILE"}},
		{"Home", "", map[string]string{"BANGER_HOME": "/x/../y/"}, "home", api.Setting{Key: "home", Value: "/x/../y/", Origin: "BANGER_HOME"}},
		{"DataHome", "", map[string]string{"XDG_DATA_HOME": "/d"}, "home", api.Setting{Key: "home", Value: "/d/banger", Origin: "default"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, shown, err := load(t, tt.file, tt.vars)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, shown[tt.key]); diff != "" {
				t.Errorf("setting (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadFindsFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "banger"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "banger", "config.toml"), []byte("cpus = 7"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(env(map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": dir}))
	if err != nil || c.CPUs != 7 {
		t.Errorf("Load = %d CPUs, %v; want 7 of $XDG_CONFIG_HOME/banger/config.toml", c.CPUs, err)
	}
}

func TestLoadErrors(t *testing.T) {
	tests := []struct {
		name string
		file string
		vars map[string]string
		want string
	}{
		{"UnknownKey", "cpu = 2", nil, `unknown setting "cpu" in`},
		{"UnknownInTable", "[sources]\nmirror = 'x'", nil, `unknown setting "sources.mirror" in`},
		{"KnownKeyInWrongTable", "[vm]\ncpus = 2", nil, `unknown setting "vm.cpus" in`},
		{"BadTOML", "cpus = ", nil, "read settings"},
		{"EmptyText", "image = ''", nil, "setting image (from"},
		{"CPUsZero", "cpus = 0", nil, `"0" is not a number from 1 on`},
		{"CPUsNegative", "cpus = -1", nil, `"-1" is not a number`},
		{"CPUsWithTail", "cpus = '2x'", nil, `"2x" is not a number`},
		{"CPUsFraction", "cpus = 1.5", nil, `"1.5" is not a number`},
		{"Memory", "memory = 'lots'", nil, `"lots" is not a size such as 512MiB`},
		{"MemoryOfVariable", "", map[string]string{"BANGER_MEMORY": "x"}, "setting memory (from BANGER_MEMORY)"},
		{"Timeout", "boot_timeout = 90", nil, `"90" is not a time such as 90s`},
		{"TimeoutZero", "stop_timeout = '0s'", nil, `"0s" is not a time`},
		{"RelativeHome", "", map[string]string{"BANGER_HOME": "x"}, `"x" is not an absolute path`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.file, tt.vars)
			if err == nil || !strings.Contains(err.Error(), tt.want) || api.CodeOf(err) != api.CodeInvalid {
				t.Errorf("Load = %v, want invalid with %q", err, tt.want)
			}
		})
	}
}

func TestLoadUnreadableFile(t *testing.T) {
	if _, _, err := Load(env(map[string]string{"HOME": "/h", "BANGER_CONFIG": t.TempDir()})); err == nil {
		t.Error("a folder was read as settings")
	}
}

func TestParseMiB(t *testing.T) {
	tests := []struct {
		in   string
		want int // 0: refused
	}{
		{"512MiB", 512},
		{"512m", 512},
		{"512M", 512},
		{"512MB", 512},
		{"1GiB", 1024},
		{"2g", 2048},
		{"1.5GiB", 1536},
		{"1 GiB", 1024},
		{"1TiB", 1 << 20},
		{"1048576", 1},
		{"1024KiB", 1},
		{"", 0},
		{"0", 0},
		{"-1GiB", 0},
		{"1", 0},
		{"1500KiB", 0},
		{"x", 0},
		{"GiB", 0},
		{"1GiB1", 0},
		{"1XB", 0},
		{"99999999999PiB", 0},
	}
	for _, tt := range tests {
		got, err := ParseMiB(tt.in)
		if got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("ParseMiB(%q) = %d, %v; want %d", tt.in, got, err, tt.want)
		}
	}
}

func FuzzParseMiB(f *testing.F) {
	for _, seed := range []string{"512MiB", "1.5g", "-1", "1e9", "NaN", "9223372036854775807"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if mib, err := ParseMiB(text); (err == nil) != (mib > 0) {
			t.Errorf("ParseMiB(%q) = %d, %v", text, mib, err)
		}
	})
}
