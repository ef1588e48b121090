//go:build images

package e2e

import (
	"bytes"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// plugins makes the repositories of tmux's plugins, which not every machine can clone, and returns
// the settings for them.
func plugins(t *testing.T) []string {
	t.Helper()
	var env []string
	for name, variable := range map[string]string{"tpm": "BANGER_TMUX_TPM", "tmux-resurrect": "BANGER_TMUX_RESURRECT", "tmux-continuum": "BANGER_TMUX_CONTINUUM"} {
		dir := filepath.Join(t.TempDir(), name)
		for _, args := range [][]string{
			{"init", "-q", dir},
			{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", "commit", "-q", "--allow-empty", "-m", "first"},
		} {
			if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
				t.Fatalf("git %q: %v\n%s", args, err, out)
			}
		}
		env = append(env, variable+"=file://"+dir)
	}
	return env
}

// TestAgentImage builds the largest preset with Docker, and uses what it promises: opencode answers
// over HTTP at this host, a container runs on overlay2.
func TestAgentImage(t *testing.T) {
	h := newHome(t, plugins(t)...)
	_, wait := h.begin("image", "build", "agent", "--preset", "agent", "--docker", "--memory", "2GiB")
	if r := wait(); r.code != 0 {
		t.Fatalf("image build: exit status %d\n%s", r.code, r.stderr)
	}
	t.Logf("the build says:\n%s", lastLines(h.banger("image", "logs", "agent"), 20))
	h.banger("run", "-d", "--name", "dev", "--image", "agent", "--memory", "2GiB")
	_, wait = h.begin("wait", "dev", "--for", "port:4096", "--timeout", "15m")
	if r := wait(); r.code != 0 {
		t.Fatalf("opencode does not listen: %s", r.stderr)
	}
	url := strings.TrimSpace(h.banger("open", "dev", "opencode", "--timeout", "15m"))
	if again := strings.TrimSpace(h.banger("open", "dev")); again != url {
		t.Errorf("asked again, the URL is %s, was %s", again, url)
	}
	client := http.Client{Timeout: time.Minute} // open has seen it answer
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"global/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), `"healthy":true`) {
		t.Errorf("opencode answers %s, %v: %.200s", response.Status, err, body)
	}

	if r := h.run(t.Context(), bytes.NewReader(busyboxTar(t)), "exec", "-i", "dev", "--", "sh", "-c", "cat > /root/busybox.tar"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	_, wait = h.begin("exec", "dev", "--", "sh", "-c", `systemctl is-system-running --wait >&2 || true
		docker info --format '{{.Driver}}' && docker import /root/busybox.tar busybox:1 >/dev/null && docker run --rm busybox:1 /bin/echo contained`)
	if r := wait(); r.code != 0 || r.stdout != "overlay2\ncontained\n" {
		t.Errorf("docker: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if out := h.banger("exec", "dev", "--", "bash", "-lc", "command -v opencode mise tmux; ls ~/.tmux/plugins | wc -l; grep -c continuum ~/.tmux.conf"); out != "/usr/local/bin/opencode\n/usr/local/bin/mise\n/usr/bin/tmux\n3\n2\n" {
		t.Errorf("in the machine: %s", out)
	}
}

// TestBuildWithoutPackage: apt's own words say that there is no such package.
func TestBuildWithoutPackage(t *testing.T) {
	h := newHome(t)
	_, wait := h.begin("image", "build", "x", "--package", "no-such-package-here")
	if r := wait(); r.code != 1 || !strings.Contains(r.stderr, "Unable to locate package no-such-package-here") {
		t.Errorf("image build: exit status %d\n%s", r.code, r.stderr)
	}
	h.fails(1, "no image", "image", "inspect", "x")
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
