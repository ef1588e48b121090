// Package config reads banger's settings: a default each, changed by config.toml, changed by the
// environment.
//
// The file is $XDG_CONFIG_HOME/banger/config.toml (BANGER_CONFIG names another). Unknown keys are
// errors, so a typing mistake is not silently a default. Each setting remembers where its value
// came from, for `banger config show`.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/pelletier/go-toml/v2"

	"banger/api"
	"banger/internal/home"
)

// Config is every setting, checked.
type Config struct {
	Home          home.Dir // folder of all state: database, images, kernels, VMs, sockets
	Image         string   // image of a VM that names none
	Kernel        string   // kernel bundle of a VM that names none
	CPUs          int
	MemoryMiB     int
	DiskMiB       int           // apparent size of a VM's own disk
	Network       api.Network   // of a VM that names none
	Subnet        netip.Prefix  // of the VMs
	VMM           string        // "auto", or the path or name of a program that speaks Firecracker's API
	BootTimeout   time.Duration // from the VMM's start until the agent answers
	StopTimeout   time.Duration // for the guest's own shutdown, then it is killed
	DebianMirror  string        // URL of a Debian archive
	UbuntuMirror  string        // URL of an Ubuntu archive
	KernelPackage string        // Debian package that depends on the kernel to pull

	// Where image builds take things from; package provision parses them.
	NPMRegistry      string // URL
	Mise, Opencode   string // see package download
	TmuxTPM          string // git repositories: URL or absolute path, with #REF behind
	TmuxResurrect    string
	TmuxContinuum    string
	DockerRepository string // URL of an apt repository with docker-ce; empty for the distribution's own Docker
}

// DefaultDebianMirror is Debian's own archive.
const DefaultDebianMirror = "http://deb.debian.org/debian"

// scope says who goes by a setting.
type scope int

const (
	// ofRequest is for the client to resolve and to send with each request.
	ofRequest scope = iota
	// ofBuild is sent with image builds alone.
	ofBuild
	// ofClient says which daemon a client asks, so no daemon can have another one: not even by
	// another path to the folder.
	ofClient
	// ofHome counts for all clients of a home folder: its daemon reads it when it starts, and keeps
	// it.
	ofHome
)

// setting ties a key to its default, its variable and its place in Config.
type setting struct {
	scope
	key, variable, standard string
	set                     func(*Config, string) error
}

// settings is the whole list: `config show`, the file and the environment all go through it.
var settings = []setting{
	{ofClient, "home", "BANGER_HOME", "", func(c *Config, v string) error { return setHome(c, v) }},
	{ofRequest, "image", "BANGER_IMAGE", "debian:trixie", func(c *Config, v string) error { return setText(&c.Image, v) }},
	{ofRequest, "kernel", "BANGER_KERNEL", "debian:trixie", func(c *Config, v string) error { return setText(&c.Kernel, v) }},
	{ofRequest, "cpus", "BANGER_CPUS", "2", func(c *Config, v string) error { return setCount(&c.CPUs, v) }},
	{ofRequest, "memory", "BANGER_MEMORY", "1GiB", func(c *Config, v string) error { return setMiB(&c.MemoryMiB, v) }},
	{ofRequest, "disk", "BANGER_DISK", "16GiB", func(c *Config, v string) error { return setMiB(&c.DiskMiB, v) }},
	{ofRequest, "network", "BANGER_NETWORK", string(api.NetworkUser), func(c *Config, v string) error { return setNetwork(&c.Network, v) }},
	{ofHome, "subnet", "BANGER_SUBNET", "172.30.0.0/16", func(c *Config, v string) error { return setSubnet(&c.Subnet, v) }},
	{ofHome, "vmm", "BANGER_VMM", "auto", func(c *Config, v string) error { return setText(&c.VMM, v) }},
	{ofRequest, "boot_timeout", "BANGER_BOOT_TIMEOUT", "2m", func(c *Config, v string) error { return setDuration(&c.BootTimeout, v) }},
	{ofRequest, "stop_timeout", "BANGER_STOP_TIMEOUT", "1m", func(c *Config, v string) error { return setDuration(&c.StopTimeout, v) }},
	{
		ofHome,
		"sources.debian_mirror",
		"BANGER_DEBIAN_MIRROR",
		DefaultDebianMirror,
		func(c *Config, v string) error { return setText(&c.DebianMirror, v) },
	},
	{
		ofHome,
		"sources.ubuntu_mirror",
		"BANGER_UBUNTU_MIRROR",
		"http://archive.ubuntu.com/ubuntu",
		func(c *Config, v string) error { return setText(&c.UbuntuMirror, v) },
	},
	{
		ofHome,
		"sources.kernel_package",
		"BANGER_KERNEL_PACKAGE",
		"linux-image-cloud-amd64",
		func(c *Config, v string) error { return setText(&c.KernelPackage, v) },
	},
	{
		ofHome,
		"sources.npm_registry",
		"BANGER_NPM_REGISTRY",
		"https://registry.npmjs.org",
		func(c *Config, v string) error { return setText(&c.NPMRegistry, v) },
	},
	{ofBuild, "sources.mise", "BANGER_MISE", defaultMise, func(c *Config, v string) error { return setText(&c.Mise, v) }},
	{ofBuild, "sources.opencode", "BANGER_OPENCODE", defaultOpencode, func(c *Config, v string) error { return setText(&c.Opencode, v) }},
	{
		ofBuild,
		"sources.tmux_tpm",
		"BANGER_TMUX_TPM",
		"https://github.com/tmux-plugins/tpm#v3.1.0",
		func(c *Config, v string) error { return setText(&c.TmuxTPM, v) },
	},
	{
		ofBuild,
		"sources.tmux_resurrect",
		"BANGER_TMUX_RESURRECT",
		"https://github.com/tmux-plugins/tmux-resurrect#v4.0.0",
		func(c *Config, v string) error { return setText(&c.TmuxResurrect, v) },
	},
	{
		ofBuild,
		"sources.tmux_continuum",
		"BANGER_TMUX_CONTINUUM",
		"https://github.com/tmux-plugins/tmux-continuum#v3.1.0",
		func(c *Config, v string) error { return setText(&c.TmuxContinuum, v) },
	},
	{
		ofBuild,
		"sources.docker_repository",
		"BANGER_DOCKER_REPOSITORY",
		ofDistribution,
		func(c *Config, v string) error { return setRepository(&c.DockerRepository, v) },
	},
}

// Versions and hashes of what goes into developer images are pinned together.
const (
	defaultMise     = "npm:@jdxcode/mise-linux-x64@2026.9.15#sha512-ButPFGyztN0Rk/HOHvHuf+W80CkvQRAjbDWHvhGJc3PnL3e2KhCYZIOyjx8wPkhr9VJa/7sJZXpxtt5JLjsfaQ=="
	defaultOpencode = "npm:opencode-linux-x64@1.18.34#sha512-RTAMjCve4euxP2QKLuvRmdoW5J5DQK1DiZqt+7slfixyjAEi79QC2Df2oYKogibaAI4IEU8uzenoJeEl3k+UEw=="
)

// Load reads the settings; getenv is os.Getenv or a test's.
func Load(getenv func(string) string) (Config, []api.Setting, error) {
	userHome, path := getenv("HOME"), filePath(getenv)
	inFile, err := readFile(path)
	if err != nil {
		return Config{}, nil, err
	}
	var c Config
	var shown []api.Setting
	for _, s := range settings {
		value, origin := s.standard, "default"
		if s.key == "home" {
			value = filepath.Join(cmp.Or(getenv("XDG_DATA_HOME"), filepath.Join(userHome, ".local", "share")), "banger")
		}
		if v, ok := inFile[s.key]; ok {
			value, origin = v, path
			delete(inFile, s.key)
		}
		if v := getenv(s.variable); v != "" {
			value, origin = v, s.variable
		}
		value = strings.TrimSpace(value)
		if err := s.set(&c, value); err != nil {
			return Config{}, nil, api.Errorf(api.CodeInvalid, "setting %s (from %s): %w", s.key, origin, err)
		}
		shown = append(shown, api.Setting{Key: s.key, Value: value, Origin: origin})
	}
	for key := range inFile {
		return Config{}, nil, api.Errorf(api.CodeInvalid, "unknown setting %q in %s", key, path).
			WithHint("there are %s", strings.Join(keys(), ", "))
	}
	return c, shown, nil
}

// keys are those of all settings.
func keys() (all []string) {
	for _, s := range settings {
		all = append(all, s.key)
	}
	return all
}

// filePath returns where the settings file is, or would be.
func filePath(getenv func(string) string) string {
	if path := getenv("BANGER_CONFIG"); path != "" {
		return path
	}
	return filepath.Join(cmp.Or(getenv("XDG_CONFIG_HOME"), filepath.Join(getenv("HOME"), ".config")), "banger", "config.toml")
}

// readFile returns the file's keys, tables joined with dots; a missing file has none.
func readFile(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "read settings %s: %w", path, err)
	}
	flat := map[string]string{}
	flatten(flat, "", tree)
	return flat, nil
}

func flatten(flat map[string]string, prefix string, tree map[string]any) {
	for key, value := range tree {
		if sub, ok := value.(map[string]any); ok {
			flatten(flat, prefix+key+".", sub)
			continue
		}
		flat[prefix+key] = fmt.Sprint(value)
	}
}

func setText(to *string, v string) error {
	if *to = strings.TrimSpace(v); *to == "" {
		return errors.New("is empty")
	}
	return nil
}

// ofDistribution is the value of a setting for an apt repository that says: none, the distribution
// has it itself.
const ofDistribution = "distribution"

func setRepository(to *string, v string) error {
	v = strings.TrimSpace(v)
	switch {
	case v == ofDistribution:
		*to = ""
	case strings.HasPrefix(v, "https://"):
		*to = v
	default:
		return fmt.Errorf("%q is neither %q nor the https URL of an apt repository", v, ofDistribution)
	}
	return nil
}

func setHome(c *Config, v string) error {
	if !filepath.IsAbs(v) {
		return fmt.Errorf("%q is not an absolute path", v)
	}
	c.Home = home.Dir(filepath.Clean(v))
	return nil
}

func setCount(to *int, v string) error {
	n, err := strconv.Atoi(strings.TrimSpace(v))
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number from 1 on", v)
	}
	*to = n
	return nil
}

func setMiB(to *int, v string) error {
	mib, err := ParseMiB(v)
	*to = mib
	return err
}

func setNetwork(to *api.Network, v string) error {
	*to = api.Network(v)
	if *to != api.NetworkUser && *to != api.NetworkNone {
		return fmt.Errorf("%q is neither %s nor %s", v, api.NetworkUser, api.NetworkNone)
	}
	return nil
}

func setSubnet(to *netip.Prefix, v string) error {
	prefix, err := netip.ParsePrefix(v)
	if err != nil {
		return fmt.Errorf("%q is no subnet such as 172.30.0.0/16", v)
	}
	if prefix != prefix.Masked() {
		return fmt.Errorf("%s is an address in a subnet, which is %s", v, prefix.Masked())
	}
	*to = prefix
	return nil
}

func setDuration(to *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not a time such as 90s", v)
	}
	*to = d
	return nil
}

// ParseMiB reads a size such as "512MiB", "1GiB" or "2g"; units are powers of 1024 and it must be
// whole MiB.
func ParseMiB(v string) (int, error) {
	bytes, err := units.RAMInBytes(v)
	switch {
	case err != nil || bytes <= 0:
		return 0, fmt.Errorf("%q is not a size such as 512MiB or 1GiB", v)
	case bytes%(1<<20) != 0:
		return 0, fmt.Errorf("%q is not a whole number of MiB", v)
	}
	return int(bytes >> 20), nil
}
