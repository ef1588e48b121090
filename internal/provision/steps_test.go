package provision

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// runStep runs a step's script on this host, in a folder that stands for the guest's root: every
// absolute path that the script writes below one of those folders is moved there.
func runStep(t *testing.T, name, root string, folders []string, env ...string) {
	t.Helper()
	text, err := stepFiles.ReadFile("steps/" + name + ".sh")
	if err != nil {
		t.Fatal(err)
	}
	// whoever tests
	script := strings.ReplaceAll(string(text), "root:root", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()))
	for _, folder := range folders {
		script = strings.ReplaceAll(script, folder, root+folder)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script, name)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + root}, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("step %s: %v\n%s", name, err, out)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// makeRepository makes a git repository with one commit, and returns its hash.
func makeRepository(t *testing.T, dir string) string {
	t.Helper()
	write(t, filepath.Join(dir, "tpm"), "#!/bin/sh\n")
	var out []byte
	for _, args := range [][]string{
		{"init", "-q"},
		{"add", "."},
		{"-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", "commit", "-q", "-m", "first"},
		{"tag", "v1"},
		{"rev-parse", "HEAD"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
		var err error
		if out, err = cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	return strings.TrimSpace(string(out))
}

func TestTmuxStep(t *testing.T) {
	root := t.TempDir()
	inputs := filepath.Join(root, "inputs")
	head := makeRepository(t, filepath.Join(inputs, "git/tpm"))
	const mine = "set -g status off\n# >>> banger: tmux old\nold line\n# <<< banger: tmux\nbind x kill-pane\n"
	conf := filepath.Join(root, "root/.tmux.conf")
	write(t, conf, mine)
	plugins := "PLUGINS=tpm https://example.org/tpm v1 git/tpm"
	var first string
	for i := range 2 { // the second time must change nothing
		runStep(t, "tmux", root, []string{"/root"}, "INPUTS="+inputs, plugins)
		got := read(t, conf)
		if i == 0 {
			first = got
		}
		if diff := cmp.Diff(first, got); diff != "" {
			t.Errorf("the second run changes it:\n%s", diff)
		}
	}
	if !strings.HasPrefix(first, "set -g status off\n# >>> banger: tmux") || !strings.HasSuffix(first, "# <<< banger: tmux\nbind x kill-pane\n") || strings.Contains(first, "old line") || strings.Count(first, "@plugin") != 3 {
		t.Errorf("the block was not replaced in place:\n%s", first)
	}
	clone := filepath.Join(root, "root/.tmux/plugins/tpm")
	out, err := exec.CommandContext(t.Context(), "git", "-C", clone, "config", "remote.origin.url").Output()
	if err != nil || string(out) != "https://example.org/tpm\n" {
		t.Errorf("origin is %q, %v", out, err)
	}
	if at := strings.TrimSpace(read(t, filepath.Join(clone, ".git/HEAD"))); at != head {
		t.Errorf("HEAD is %q, want the tag's commit %s", at, head)
	}
}

func TestBaseStep(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/fstab"), "# mine\nUUID=1 / ext4 defaults 0 1\n/dev/vdb /home ext4 defaults 0 2\n/dev/vdc /var/lib/docker ext4 defaults 0 2\n/dev/vdd /data ext4 nofail 0 2\ntmpfs /tmp tmpfs size=1g 0 0\n")
	write(t, filepath.Join(root, "etc/hosts"), "10.0.0.1 other\n")
	write(t, filepath.Join(root, "root/.ssh/authorized_keys"), "ssh-ed25519 AAAA\n")
	for _, dir := range []string{"usr/sbin", "etc/systemd/system"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		runStep(t, "base", root, []string{"/root", "/etc", "/usr/sbin"})
	}
	const wantFstab = "# mine\n/dev/vdd /data ext4 nofail 0 2\ntmpfs\t/run\ttmpfs\tmode=0755,nosuid,nodev\t0\t0\ntmpfs\t/tmp\ttmpfs\tmode=1777,nosuid,nodev\t0\t0\n"
	if diff := cmp.Diff(wantFstab, read(t, filepath.Join(root, "etc/fstab"))); diff != "" {
		t.Errorf("fstab (-want +got):\n%s", diff)
	}
	const wantHosts = "10.0.0.1 other\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if diff := cmp.Diff(wantHosts, read(t, filepath.Join(root, "etc/hosts"))); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	for path, want := range map[string]os.FileMode{"root": 0o700, "root/.ssh": 0o700, "root/.ssh/authorized_keys": 0o600} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if got := read(t, filepath.Join(root, "root/.ssh/authorized_keys")); got != "ssh-ed25519 AAAA\n" {
		t.Errorf("authorized_keys holds %q", got)
	}
}

// mise is activated once in a shell, whichever of the two files it reads, and its shims stand in
// PATH of any.
func TestMiseStep(t *testing.T) {
	root := t.TempDir()
	inputs := filepath.Join(root, "inputs")
	write(t, filepath.Join(inputs, "bin/mise"), "#!/bin/sh\n[ \"$1\" != activate ] || echo 'activated=${activated-}x'\n")
	for _, dir := range []string{"usr/local/bin", "etc/profile.d"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/bash.bashrc"), "mine=1\n")
	for range 2 {
		runStep(t, "mise", root, []string{"/etc", "/usr/local"}, "INPUTS="+inputs)
	}
	rc := filepath.Join(root, "etc/bash.bashrc")
	if got := read(t, rc); strings.Count(got, "mise.sh") != 1 || !strings.HasPrefix(got, "mine=1\n") {
		t.Errorf("bashrc holds:\n%s", got)
	}
	profile := filepath.Join(root, "etc/profile.d/mise.sh")
	for name, tt := range map[string]struct {
		shell []string
		want  string
	}{
		"Interactive": {[]string{"bash", "--norc", "-ic"}, "x 1"},
		"Script":      {[]string{"bash", "-c"}, " 1"},
		"OtherShell":  {[]string{"sh", "-c"}, " 1"},
	} {
		t.Run(name, func(t *testing.T) {
			script := ". " + rc + "; . " + profile + `; echo "${activated-} $(echo "$PATH" | tr : '\n' | grep -c mise/shims)"`
			cmd := exec.CommandContext(t.Context(), tt.shell[0], append(tt.shell[1:], script)...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + root}
			if out, err := cmd.Output(); err != nil || strings.TrimSuffix(string(out), "\n") != tt.want {
				t.Errorf("says %q, %v; want %q", out, err, tt.want)
			}
		})
	}
}

func TestFilesStep(t *testing.T) {
	root := t.TempDir()
	inputs := filepath.Join(root, "inputs")
	write(t, filepath.Join(inputs, "files/0/a"), "a")
	write(t, filepath.Join(inputs, "files/1/tree/b"), "b")
	for _, env := range [][]string{
		{"FILE=files/0/a", "TARGET=" + root + "/new/name"},
		{"FILE=files/0/a", "TARGET=" + root + "/into/"},
		{"FILE=files/1/tree", "TARGET=" + root + "/srv"},
		{"FILE=files/1/tree", "TARGET=" + root + "/into"},
	} {
		runStep(t, "files", root, nil, append(env, "INPUTS="+inputs)...)
	}
	for path, want := range map[string]string{"new/name": "a", "into/a": "a", "srv/b": "b", "into/tree/b": "b"} {
		if got := read(t, filepath.Join(root, path)); got != want {
			t.Errorf("%s holds %q", path, got)
		}
	}
}
