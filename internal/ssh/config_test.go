package ssh

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/home"
)

// ssh itself reads the text as it is meant.
func TestConfigText(t *testing.T) {
	h := home.Dir(filepath.Join(t.TempDir(), "a home, with + and ="))
	d := HomeDir(h)
	check(t, os.MkdirAll(string(d), 0o700))
	text, err := d.ConfigText(h, "/opt/ban ger/bin/banger")
	check(t, err)
	config := filepath.Join(t.TempDir(), "config")
	user := "Host *\n\tUser alice\n\tStrictHostKeyChecking no\n\tProxyJump elsewhere\n"
	check(t, os.WriteFile(config, []byte(user), 0o644))
	_, err = d.Install(config, text)
	check(t, err)
	settings := func(host string) string {
		out, err := exec.CommandContext(t.Context(), "ssh", "-G", "-F", config, host).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh -G %s: %v\n%s", host, err, out)
		}
		return string(out)
	}
	got := settings("web.vm")
	for _, want := range []string{
		"user root\n", "stricthostkeychecking true\n", "identitiesonly yes\n", "updatehostkeys false\n", "identityfile " + d.Key() + "\n", "userknownhostsfile " + d.KnownHosts() + "\n",
		"proxycommand env BANGER_HOME='" + string(h) + "' '/opt/ban ger/bin/banger' ssh-proxy '%h'\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("ssh -G web.vm has not %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "proxyjump elsewhere") {
		t.Error("ssh would jump to a machine")
	}
	if got := settings("example.org"); !strings.Contains(got, "user alice\n") || !strings.Contains(got, "proxyjump elsewhere\n") || strings.Contains(got, "banger") {
		t.Errorf("ssh -G example.org:\n%s", got)
	}
	for _, bad := range []home.Dir{"/home/it's", "/home/100%", "/home/new\nline", "/home/*", `/home/a"b`, "/home/$(true)"} {
		if _, err := HomeDir(bad).ConfigText(bad, "/banger"); api.CodeOf(err) != api.CodeUnsupported {
			t.Errorf("a home in %q: %v, want unsupported", bad, err)
		}
	}
}

// What Install does, Uninstall takes back to the byte.
func TestInstall(t *testing.T) {
	for _, tt := range []struct {
		name, before string
		mode         os.FileMode
	}{
		{"Plain", "Host *\n\tUser alice\n", 0o600},
		{"NoNewline", "Host *", 0o600},
		{"Empty", "", 0o640},
		{"WindowsLines", "Host *\r\n\tUser alice\r\n", 0o644},
		{"AnotherInclude", "Include other\n\n", 0o644},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "config")
			check(t, os.WriteFile(config, []byte(tt.before), 0o600))
			check(t, os.Chmod(config, tt.mode))
			one, two := HomeDir(home.Dir(t.TempDir())), HomeDir(home.Dir(t.TempDir()))
			for _, step := range []struct {
				name    string
				do      func() (bool, error)
				changed bool
			}{
				{"install", func() (bool, error) { return one.Install(config, "text\n") }, true},
				{"install again", func() (bool, error) { return one.Install(config, "text\n") }, false},
				{"install another home", func() (bool, error) { return two.Install(config, "text\n") }, true},
				{"uninstall", func() (bool, error) { return one.Uninstall(config) }, true},
				{"uninstall again", func() (bool, error) { return one.Uninstall(config) }, false},
			} {
				if changed, err := step.do(); err != nil || changed != step.changed {
					t.Errorf("%s = %t, %v; want %t", step.name, changed, err, step.changed)
				}
			}
			if got, _ := os.ReadFile(config); strings.Count(string(got), "Include \"") != 1 || !strings.Contains(string(got), two.Config()) {
				t.Errorf("of two homes one is left:\n%s", got)
			}
			if changed, err := two.Uninstall(config); !changed || err != nil {
				t.Errorf("uninstall another home = %t, %v", changed, err)
			}
			info, err := os.Stat(config)
			check(t, err)
			if got, _ := os.ReadFile(config); string(got) != tt.before || info.Mode().Perm() != tt.mode {
				t.Errorf("afterwards the file has %q and mode %o, want %q and %o", got, info.Mode().Perm(), tt.before, tt.mode)
			}
			if left, _ := os.ReadDir(filepath.Dir(config)); len(left) != 1 {
				t.Errorf("files are left: %v", left)
			}
			if _, err := os.Stat(one.Config()); !os.IsNotExist(err) {
				t.Errorf("the home's own text is left: %v", err)
			}
		})
	}
}

func TestInstallIntoNothing(t *testing.T) {
	for _, folder := range []bool{false, true} {
		top := t.TempDir()
		config := filepath.Join(top, ".ssh", "config")
		if folder {
			check(t, os.Mkdir(filepath.Dir(config), 0o700))
		}
		d := HomeDir(home.Dir(t.TempDir()))
		_, err := d.Install(config, "text\n")
		check(t, err)
		for path, want := range map[string]os.FileMode{filepath.Dir(config): 0o700, config: 0o600, d.Config(): 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, want)
			}
		}
		_, err = d.Uninstall(config)
		check(t, err)
		if _, err := os.Stat(filepath.Dir(config)); os.IsNotExist(err) == folder {
			t.Errorf("the folder was there before: %t; after: %v", folder, err)
		}
		if _, err := os.Stat(config); !os.IsNotExist(err) {
			t.Errorf("the file is left: %v", err)
		}
		if changed, err := d.Uninstall(config); changed || err != nil {
			t.Errorf("uninstall of nothing = %t, %v", changed, err)
		}
	}
}

// What the user wrote into a file that we made stays.
func TestUninstallKeepsWhatCameLater(t *testing.T) {
	config := filepath.Join(t.TempDir(), ".ssh", "config")
	d := HomeDir(home.Dir(t.TempDir()))
	_, err := d.Install(config, "text\n")
	check(t, err)
	file, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	_, err = file.WriteString("Host mine\n")
	check(t, err)
	check(t, file.Close())
	_, err = d.Uninstall(config)
	check(t, err)
	if got, err := os.ReadFile(config); err != nil || string(got) != "Host mine\n" {
		t.Errorf("left is %q, %v", got, err)
	}
}

func TestInstallThroughLink(t *testing.T) {
	dotfiles, link := filepath.Join(t.TempDir(), "dotfiles"), filepath.Join(t.TempDir(), "config")
	check(t, os.Symlink(dotfiles, link))
	d := HomeDir(home.Dir(t.TempDir()))
	if _, err := d.Install(link, "text\n"); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("a link to nowhere: %v, want conflict", err)
	}
	check(t, os.WriteFile(dotfiles, []byte("Host *\n"), 0o640))
	_, err := d.Install(link, "text\n")
	check(t, err)
	if to, err := os.Readlink(link); err != nil || to != dotfiles {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if got, _ := os.ReadFile(dotfiles); !strings.HasSuffix(string(got), "Host *\n") || !strings.Contains(string(got), d.Config()) {
		t.Errorf("the file behind the link has %q", got)
	}
	_, err = d.Uninstall(link)
	check(t, err)
	if got, _ := os.ReadFile(dotfiles); string(got) != "Host *\n" {
		t.Errorf("afterwards it has %q", got)
	}
}
