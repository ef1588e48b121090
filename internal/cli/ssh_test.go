package cli

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// fakeProgram puts a shell script in front of PATH.
func fakeProgram(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestSSH(t *testing.T) {
	home := fakeDaemon(t, map[string]http.HandlerFunc{
		"GET /v1/machines/web": says(api.Machine{ID: "0123456789ab", Name: "web", State: api.StateRunning}),
		"GET /v1/machines/old": says(api.Machine{ID: "ba9876543210", Name: "old", State: api.StateStopped}),
	})
	fakeProgram(t, "ssh", `printf '%s\n' "$@"; exit 9`)
	for _, tt := range []struct{ args, want string }{
		{"ssh web", "-l\nroot\nweb.vm\n"},
		{"ssh web -- uptime -p", "-l\nroot\nweb.vm\nuptime\n-p\n"},
		{"ssh web uptime", "-l\nroot\nweb.vm\nuptime\n"},
		{"ssh -l dev web -- -N", "-l\ndev\nweb.vm\n-N\n"},
		{"ssh -A web", "-l\nroot\n-A\n-o\nAddKeysToAgent=yes\nweb.vm\n"},
	} {
		got := banger(t, home, strings.Fields(tt.args)...)
		if got.code != 9 || !strings.HasSuffix(got.stdout, tt.want) || got.stderr != "" {
			t.Errorf("banger %s = %+v, want exit code 9 and arguments that end with %q", tt.args, got, tt.want)
		}
		for _, want := range []string{"HostKeyAlias=0123456789ab.vm\n", "StrictHostKeyChecking=yes\n", "BANGER_HOME='" + home + "'", "ssh-proxy 0123456789ab\n"} {
			if !strings.Contains(got.stdout, want) {
				t.Errorf("banger %s has no argument %q:\n%s", tt.args, want, got.stdout)
			}
		}
	}
	if got := banger(t, home, "ssh", "old"); got.code != 1 || !strings.Contains(got.stderr, "banger start old") {
		t.Errorf("ssh to a stopped machine = %+v", got)
	}
	testLentAgent(t, home)
	fakeProgram(t, "ssh", "kill -TERM $$")
	if got := banger(t, home, "ssh", "web"); got.code != 128+15 {
		t.Errorf("ssh that was killed = %+v", got)
	}
	t.Setenv("PATH", t.TempDir())
	if got := banger(t, home, "ssh", "web"); got.code != 1 || !strings.Contains(got.stderr, "openssh-client") {
		t.Errorf("without ssh = %+v", got)
	}
}

// testLentAgent lends the agent that is there, else one of the session's own.
func testLentAgent(t *testing.T, home string) {
	fakeProgram(t, "ssh", `echo "$SSH_AUTH_SOCK"; ssh-add -l`)
	dead := filepath.Join(t.TempDir(), "dead")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	for _, none := range []string{"", dead} {
		t.Setenv("SSH_AUTH_SOCK", none)
		got := banger(t, home, "ssh", "-A", "web")
		socket, keys, _ := strings.Cut(got.stdout, "\n")
		if got.code != 0 || !strings.Contains(keys, " banger (ED25519)") || strings.Count(keys, "\n") != 1 {
			t.Errorf("with the agent %q: %+v, want banger's key alone", none, got)
		}
		if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the agent's folder after the session: %v, want that it is gone", err)
		}
		if got := banger(t, home, "ssh", "web"); !strings.HasPrefix(got.stdout, none+"\n") {
			t.Errorf("without -A ssh has the agent %q, want %q", got.stdout, none)
		}
	}
	there := filepath.Join(t.TempDir(), "there")
	listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: there, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("SSH_AUTH_SOCK", there)
	fakeProgram(t, "ssh", `echo "$SSH_AUTH_SOCK"`)
	if got := banger(t, home, "ssh", "-A", "web"); got.stdout != there+"\n" {
		t.Errorf("with an agent that is there ssh has %q, want %q", got.stdout, there)
	}
}

func TestSSHConfig(t *testing.T) {
	home := t.TempDir()
	config := filepath.Join(home, ".ssh", "config")
	printed := banger(t, home, "ssh-config")
	if printed.code != 0 || !strings.Contains(printed.stdout, "Host *.vm\n") || printed.stderr != "" {
		t.Errorf("ssh-config = %+v", printed)
	}
	if _, err := os.Stat(filepath.Dir(config)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("printing made ~/.ssh: %v", err)
	}
	for _, want := range []string{"includes it now", "includes it already"} {
		if got := banger(t, home, "ssh-config", "--install"); got.code != 0 || !strings.Contains(got.stdout, config+" "+want) {
			t.Errorf("ssh-config --install = %+v, want %q", got, want)
		}
	}
	if text, err := os.ReadFile(filepath.Join(home, "ssh", "config")); err != nil || string(text) != printed.stdout {
		t.Errorf("the home's text is %q, %v", text, err)
	}
	for _, want := range []string{"is as it was before", "did not include"} {
		if got := banger(t, home, "ssh-config", "--uninstall"); got.code != 0 || !strings.Contains(got.stdout, want) {
			t.Errorf("ssh-config --uninstall = %+v, want %q", got, want)
		}
	}
	if _, err := os.Stat(filepath.Dir(config)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("~/.ssh is left: %v", err)
	}
}

func TestDNS(t *testing.T) {
	home := t.TempDir()
	calls := filepath.Join(t.TempDir(), "calls")
	fakeProgram(t, "resolvectl", "echo \"$@\" >>"+calls+"\n")
	if os.Geteuid() != 0 {
		if got := banger(t, home, "dns", "--install"); got.code != 1 || !strings.Contains(got.stderr, "ssh-config --install") {
			t.Errorf("as an ordinary user: %+v", got)
		}
		return
	}
	for _, tt := range []struct{ args, want string }{
		{"dns", "does not ask"}, {"dns --install", "asks 172.30.0.1 for NAME.vm"}, {"dns", "asks 172.30.0.1"}, {"dns --uninstall", "does not ask"}, {"dns --uninstall", "does not ask"},
	} {
		if got := banger(t, home, strings.Fields(tt.args)...); got.code != 0 || !strings.Contains(got.stdout, tt.want) {
			t.Errorf("banger %s = %+v, want %q", tt.args, got, tt.want)
		}
	}
	if said, err := os.ReadFile(calls); err != nil || string(said) != "status\n" {
		t.Errorf("without a network resolved was told %q, %v", said, err)
	}
	fakeProgram(t, "resolvectl", "echo no bus >&2; exit 1")
	if got := banger(t, home, "dns", "--install"); got.code != 1 || !strings.Contains(got.stderr, "systemd-resolved does not run") || !strings.Contains(got.stderr, "172.30.0.1") {
		t.Errorf("without resolved: %+v", got)
	}
	if got := banger(t, home, "dns"); !strings.Contains(got.stdout, "does not ask") {
		t.Errorf("after a refusal: %+v", got)
	}
}

func TestHostService(t *testing.T) {
	var last string
	home := fakeDaemon(t, map[string]http.HandlerFunc{
		"GET /v1/machines/web": says(api.Machine{ID: "0123456789ab", Name: "web", Gateway: "172.30.0.1", HostServices: []int{80}}),
		"GET /v1/machines":     says([]api.Machine{{Name: "db"}, {Name: "web", Gateway: "172.30.0.1", HostServices: []int{80, 90}}}),
		"PUT /v1/machines/0123456789ab/host-services": func(w http.ResponseWriter, r *http.Request) {
			body := make([]byte, 1000)
			n, _ := r.Body.Read(body)
			last = string(body[:n])
			says(api.Machine{Gateway: "172.30.0.1", HostServices: []int{80, 5432}})(w, r)
		},
	})
	for args, want := range map[string]string{
		"host-service add web 5432 80": `{"ports":[80,5432]}`,
		"host-service rm web 80":       `{"ports":[]}`,
	} {
		got := banger(t, home, strings.Fields(args)...)
		if got.code != 0 || got.stdout != "172.30.0.1:80\n172.30.0.1:5432\n" || last != want {
			t.Errorf("banger %s = %+v, and sent %s; want %s", args, got, last, want)
		}
	}
	for args, want := range map[string]string{
		"host-service ls":        "NAME   PORT   REACHED AT\nweb    80     172.30.0.1:80\nweb    90     172.30.0.1:90\n",
		"host-service ls web":    "NAME   PORT   REACHED AT\nweb    80     172.30.0.1:80\n",
		"host-service ls --json": "{\n  \"web\": [\n    80,\n    90\n  ]\n}\n",
	} {
		if got := banger(t, home, strings.Fields(args)...); got.code != 0 || got.stdout != want {
			t.Errorf("banger %s = %+v, want %q", args, got, want)
		}
	}
}
