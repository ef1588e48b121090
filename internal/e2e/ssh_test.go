package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestSSH speaks to the same two VMs in all the ways that go by ssh, and to the host from inside
// them.
func TestSSH(t *testing.T) {
	h := newHome(t)
	port := hostService(t)
	h.banger("run", "-d", "--name", "web", "--host-service", port)
	h.banger("ssh-config", "--install")
	for _, test := range []struct {
		name string
		do   func(*testing.T, *home)
	}{
		{"BeforeBoot", testSSHBeforeBoot},
		{"Files", testSSHFiles},
		{"Git", testSSHGit},
		{"Editor", testSSHEditor},
		{"KeyOnly", testSSHKeyOnly},
		{"HostKeyChanged", testSSHHostKeyChanged},
		{"OtherVM", testSSHOtherVM},
		{"HostService", func(t *testing.T, h *home) { testHostService(t, h, port) }},
		{"Recreated", testSSHRecreated},
	} {
		t.Run(test.name, func(t *testing.T) { test.do(t, h.in(t)) })
	}
	h.banger("ssh-config", "--uninstall")
	if _, err := os.Stat(filepath.Join(h.dir, ".ssh")); !os.IsNotExist(err) {
		t.Errorf("~/.ssh is left: %v", err)
	}
}

// openSSH runs one of OpenSSH's programs with the configuration that ssh-config has installed.
func (h *home) openSSH(program string, args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), commandTimeout)
	defer cancel()
	args = append([]string{"-F", filepath.Join(h.dir, ".ssh", "config"), "-o", "BatchMode=yes"}, args...)
	command := exec.CommandContext(ctx, program, args...)
	command.Env = h.command(ctx).Env
	var out, errs strings.Builder
	command.Stdout, command.Stderr = &out, &errs
	if err := command.Run(); err != nil && command.ProcessState == nil {
		h.t.Fatal(err)
	}
	return out.String(), errs.String(), command.ProcessState.ExitCode()
}

// testSSHBeforeBoot connects seconds after the start, when no sshd listens.
func testSSHBeforeBoot(t *testing.T, h *home) {
	r := h.try("ssh", "web", "--", "id -un; hostname; exit 7")
	if r.stdout != "root\nweb\n" || r.code != 7 {
		t.Errorf("ssh web = %+v", r)
	}
	stdout, stderr, code := h.openSSH("ssh", "web.vm", "echo out; echo err >&2; exit 9")
	if stdout != "out\n" || stderr != "err\n" || code != 9 {
		t.Errorf("ssh web.vm: %q, %q, %d", stdout, stderr, code)
	}
	h.fails(1, "no machine", "ssh", "nobody")
	if _, stderr, code := h.openSSH("ssh", "nobody.vm", "true"); code != 255 || !strings.Contains(stderr, `"nobody"`) {
		t.Errorf("ssh nobody.vm: %q, %d", stderr, code)
	}
	// boots beside what follows, and is needed later
	h.banger("run", "-d", "--name", "bee")
	if out, _, _ := h.openSSH("ssh", "-W", "127.0.0.1:9", "web.vm"); out != "" { // nothing listens there
		t.Errorf("a forwarded connection to nothing gave %q", out)
	}
}

func testSSHFiles(t *testing.T, h *home) {
	content := strings.Repeat("0123456789abcdef", 64<<10)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := h.openSSH("scp", "-q", file, "web.vm:/root/copy"); code != 0 {
		t.Fatalf("scp: %d\n%s", code, stderr)
	}
	// the old protocol
	if _, stderr, code := h.openSSH("scp", "-q", "-O", "web.vm:/root/copy", file+".back"); code != 0 {
		t.Errorf("scp -O: %d\n%s", code, stderr)
	}
	if back, err := os.ReadFile(file + ".back"); err != nil || string(back) != content {
		t.Errorf("%d bytes came back, %v; want %d", len(back), err, len(content))
	}
	remote := "ssh -F " + filepath.Join(h.dir, ".ssh", "config")
	if out, err := exec.CommandContext(t.Context(), "rsync", "-e", remote, "web.vm:/root/copy", file+".synced").CombinedOutput(); err != nil {
		t.Errorf("rsync: %v\n%s", err, out)
	}
	if back, err := os.ReadFile(file + ".synced"); err != nil || string(back) != content {
		t.Errorf("rsync: %d bytes came back, %v; want %d", len(back), err, len(content))
	}
}

// testSSHGit pushes to a repository in the VM and clones it again.
func testSSHGit(t *testing.T, h *home) {
	work := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), "git", args...)
		command.Dir = work
		command.Env = append(h.command(t.Context()).Env, "GIT_SSH_COMMAND=ssh -F "+filepath.Join(h.dir, ".ssh", "config"))
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	h.banger("exec", "web", "--", "git", "init", "-q", "--bare", "-b", "main", "/root/project.git")
	git("init", "-q", "-b", "main", ".")
	git("-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "-q", "--allow-empty", "-m", "sent through ssh")
	git("push", "-q", "ssh://web.vm/root/project.git", "main")
	git("clone", "-q", "web.vm:project.git", "clone")
	if out, err := exec.CommandContext(t.Context(), "git", "-C", filepath.Join(work, "clone"), "log", "--format=%s").Output(); err != nil || string(out) != "sent through ssh\n" {
		t.Errorf("the clone's log is %q, %v", out, err)
	}
}

// testSSHEditor does what VS Code's Remote-SSH does first: a shell without a terminal that reads a
// script, under a connection that forwards a port as a SOCKS proxy.
func testSSHEditor(t *testing.T, h *home) {
	socks := freePort(t)
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	shell := exec.CommandContext(ctx, "ssh", "-F", filepath.Join(h.dir, ".ssh", "config"), "-T", "-D", socks, "-o", "ExitOnForwardFailure=yes", "web.vm", "bash")
	shell.Env = h.command(ctx).Env
	shell.Stdin = strings.NewReader("uname -s; echo done >/root/script-ran\n")
	if out, err := shell.CombinedOutput(); err != nil || string(out) != "Linux\n" {
		t.Errorf("a shell with a script: %v\n%s", err, out)
	}
	h.reaches(true, "web", "test -e /root/script-ran")
}

// freePort returns a TCP port of this host that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func testSSHKeyOnly(t *testing.T, h *home) {
	h.guest("web", "echo root:secret | chpasswd")
	_, stderr, code := h.openSSH("ssh", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive", "web.vm", "true")
	if code != 255 || !strings.Contains(stderr, "Permission denied (publickey).") {
		t.Errorf("without the key: %d\n%s", code, stderr)
	}
}

// A guest's host key that changes while it runs is refused, until the user says that it is meant.
func testSSHHostKeyChanged(t *testing.T, h *home) {
	before := h.vm("web").HostKey
	h.banger("exec", "web", "--", "sh", "-c", "rm /etc/ssh/ssh_host_ed25519_key*")
	h.fails(255, "the ssh host key of machine web has changed", "ssh", "web", "--", "true")
	h.banger("ssh", "--new-host-key", "web", "--", "true")
	if after := h.vm("web").HostKey; after == before || after == "" {
		t.Errorf("the host key was %q and is %q", before, after)
	}
	h.banger("ssh", "web", "--", "true")
}

// testSSHOtherVM goes on from one VM to the other's listening sshd, with a key that no VM has.
func testSSHOtherVM(t *testing.T, h *home) {
	h.banger("wait", "bee", "--for", "booted") // its own sshd listens
	socket := filepath.Join(h.dir, "agent")
	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = agent.Process.Kill(), agent.Wait() }()
	eventually(t, "ssh-agent", func() bool { _, err := os.Stat(socket); return err == nil })
	with := *h
	for _, lent := range []string{"", socket} { // where no agent runs banger lends one of its own
		with.env = append(with.env, "SSH_AUTH_SOCK="+lent)
		if out := with.banger("ssh", "-A", "web", "--", "ssh bee.vm hostname"); out != "bee\n" {
			t.Errorf("from web to bee with the agent %q: %q", lent, out)
		}
	}
	r := with.try("ssh", "-A", "web", "--", "ssh -o BatchMode=yes -o LogLevel=INFO -o PubkeyAuthentication=no bee.vm true")
	if r.code != 255 || !strings.Contains(r.stderr, "Permission denied (publickey).") {
		t.Errorf("to bee's listening sshd without a key: %+v", r)
	}
	if r := h.try("ssh", "web", "--", "ssh -o BatchMode=yes bee.vm true"); r.code != 255 {
		t.Errorf("to bee without the agent: %+v", r)
	}
}

// hostService is a web server on the host's loopback; it says who asks it.
func hostService(t *testing.T) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			fmt.Fprintln(w, "waiting")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, "hello", from)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port
}

func testHostService(t *testing.T, h *home, port string) {
	other := hostService(t)
	gateway := h.vm("web").Gateway
	get := func(port string) string { return "curl -sS --max-time 5 http://" + net.JoinHostPort(gateway, port) }
	rules := func() {
		t.Helper()
		if out, ok := h.guest("web", get(port)); !ok || out != "hello 127.0.0.1\n" {
			t.Errorf("a published service says %q", out)
		}
		h.reaches(false, "web", get(other))
		h.reaches(false, "bee", get(port))
	}
	rules()
	if v := h.vm("web"); len(v.HostServices) != 1 || strconv.Itoa(v.HostServices[0]) != port || v.MTU == 0 {
		t.Errorf("inspect says %v, MTU %d", v.HostServices, v.MTU)
	}
	if err := syscall.Kill(h.daemon().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	keeper := h.process("netns keep")
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.banger("ls") // starts a daemon, which finds the VMs and starts a keeper
	eventually(t, "the service again", func() bool { _, ok := h.guest("web", get(port)); return ok })
	rules()
	// What is taken away ends at once, for connections that stand too.
	h.banger("host-service", "add", "web", other)
	h.reaches(true, "web", get(other))
	waiting := make(chan result, 1)
	go func() {
		waiting <- h.try("exec", "web", "--", "sh", "-c", "curl -sS http://"+net.JoinHostPort(gateway, other)+"/wait")
	}()
	eventually(t, "a connection", func() bool { _, ok := h.guest("web", "ss -Htn state established | grep -q :"+other); return ok })
	h.banger("host-service", "rm", "web", other)
	if r := <-waiting; r.code == 0 {
		t.Errorf("a connection that was cut ended well: %+v", r)
	}
	h.reaches(false, "web", get(other))
	h.banger("kill", "web")
	h.banger("start", "web")
	rules()
	h.fails(1, "name server", "host-service", "add", "web", "53")
	h.fails(1, "the network is in use by web, bee", "daemon", "stop", "--purge-network")
}

// testSSHRecreated makes a VM of a name that was there before, now without a network: nothing seems
// to have changed.
func testSSHRecreated(t *testing.T, h *home) {
	before := h.vm("web").HostKey
	h.banger("rm", "-f", "web")
	known := filepath.Join(h.dir, "ssh", "known_hosts")
	if text, err := os.ReadFile(known); err != nil || strings.Contains(string(text), "web.vm") {
		t.Errorf("after rm the known hosts are %q, %v", text, err)
	}
	h.banger("run", "-d", "--name", "web", "--net", "none")
	stdout, stderr, code := h.openSSH("ssh", "web.vm", "ls /sys/class/net")
	if stdout != "lo\n" || stderr != "" || code != 0 {
		t.Errorf("ssh web.vm: %q, %q, %d", stdout, stderr, code)
	}
	if after := h.vm("web").HostKey; after == before || after == "" {
		t.Errorf("the host key was %q and is %q", before, after)
	}
	h.banger("kill", "web")
	h.fails(1, "machine web is stopped", "ssh", "web")
}
