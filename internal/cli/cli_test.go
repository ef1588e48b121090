package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"banger/api"
)

// Bad usage ends with 2, before any daemon is asked or started, and says where to look.
func TestBadUsage(t *testing.T) {
	tests := []struct {
		args string
		want string
	}{
		{"nonsense", `banger: unknown command "nonsense"`},
		{"image nonsense", `banger: unknown command "nonsense"`},
		{"ls extra", `unknown command "extra"`},
		{"ls --nonsense", "banger: unknown flag: --nonsense"},
		{"start", "requires at least 1 arg"},
		{"inspect", "requires at least 1 arg"},
		{"shell", "accepts 1 arg(s), received 0"},
		{"shell a b", "accepts 1 arg(s), received 2"},
		{"exec", "requires at least 1 arg"},
		{"cp a", "accepts 2 arg(s), received 1"},
		{"cp a b", "one end of the copy, and only one, must be in a machine"},
		{"cp a:/x b:/y", "one end of the copy, and only one, must be in a machine"},
		{"run true", `unexpected "true": the command goes behind --`},
		{"run --memory lots", `--memory: "lots" is not a size`},
		{"run --disk 1.00001MiB", "--disk: "},
		{"run --cpus 0", "--cpus: 0 is not a number from 1 on"},
		{"run --cpus x", `invalid argument "x" for "-c, --cpus"`},
		{"run --wait stopped", `--wait: "stopped" is neither running nor booted`},
		{"run -d -- true", "-d leaves the machine running without a command"},
		{"run --json", "--json needs -d"},
		{"create extra", "unknown command"},
		{"stop --timeout x a", "invalid argument"},
		{"ssh", "requires at least 1 arg"},
		{"ssh --nonsense web", "unknown flag"},
		{"ssh-config extra", "unknown command"},
		{"ssh-config --install --uninstall", "opposites"},
		{"dns --install --uninstall", "opposites"},
		{"run --host-service x", "invalid argument"},
		{"host-service add web", "requires at least 2 arg"},
		{"host-service add web http", `"http" is no TCP port`},
		{"host-service rm web 70000", `"70000" is no TCP port`},
		{"image save x", "say where to"},
		{"image save", "accepts 1 arg(s), received 0"},
		{"image register x", "say which filesystem"},
		{"image register x --rootfs f --modules m", "belong to a kernel"},
		{"image tag x", "accepts 2 arg(s), received 1"},
		{"image prune x", "unknown command"},
		{"kernel import x", "either --deb or --vmlinux"},
		{"kernel import x --deb a --vmlinux b", "either --deb or --vmlinux"},
		{"run -d --entrypoint sh", "-d starts no command"},
		{"image pull", "accepts 1 arg(s), received 0"},
		{"image pull tar:", "tar: names no file"},
		{"kernel pull a b", "accepts at most 1 arg(s), received 2"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got := banger(t, t.TempDir(), strings.Fields(tt.args)...)
			if got.code != exitUsage || !strings.Contains(got.stderr, tt.want) || got.stdout != "" {
				t.Errorf("banger %s = %+v, want exit code 2 and %q", tt.args, got, tt.want)
			}
			if lines := strings.Split(strings.TrimSpace(got.stderr), "\n"); len(lines) != 2 ||
				!strings.HasPrefix(lines[1], "  ") {
				t.Errorf("banger %s says %q, want an error and a hint below it", tt.args, got.stderr)
			}
		})
	}
}

func TestErrorWithHint(t *testing.T) {
	home := fakeDaemon(t, map[string]http.HandlerFunc{
		"GET /v1/machines/web": refuses(
			api.Errorf(api.CodeNotFound, `no machine named "web"`).WithHint("see what there is: banger ls"),
		),
		"GET /v1/machines": refuses(api.Errorf(api.CodeInternal, "disk I/O error")),
	})
	tests := []struct {
		args []string
		want result
	}{
		{[]string{"inspect", "web"}, result{1, "", "banger: no machine named \"web\"\n  see what there is: banger ls\n"}},
		{[]string{"ls"}, result{1, "", "banger: disk I/O error\n"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, banger(t, home, tt.args...), cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("banger %v (-want +got):\n%s", tt.args, diff)
		}
	}
}

func TestBadSettings(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, ".config", "banger", "config.toml")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("cpu = 1"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := banger(t, home, "ls"); got.code != exitFailure || !strings.Contains(got.stderr, `unknown setting "cpu"`) {
		t.Errorf("banger ls = %+v", got)
	}
}

// A banger without its companions says so instead of starting a daemon that cannot work.
func TestNotWhole(t *testing.T) {
	got := banger(t, t.TempDir(), "ls")
	if got.code != exitFailure || !strings.Contains(got.stderr, "banger is not whole") ||
		!strings.Contains(got.stderr, "make build") {
		t.Errorf("banger ls = %+v", got)
	}
}

func TestLs(t *testing.T) {
	hourAgo := time.Now().Add(-time.Hour)
	home := fakeDaemon(t, map[string]http.HandlerFunc{"GET /v1/machines": says([]api.Machine{
		{
			ID:        "aaaaaaaaaaaa",
			Name:      "web",
			State:     api.StateRunning,
			Image:     "debian:trixie",
			CPUs:      2,
			MemoryMiB: 1024,
			DiskMiB:   16384,
			CreatedAt: hourAgo,
			StartedAt: &hourAgo,
		},
		{
			ID:        "bbbbbbbbbbbb",
			Name:      "a-longer-name",
			State:     api.StateStopped,
			Reason:    "vmm died",
			Image:     "x",
			CPUs:      1,
			MemoryMiB: 1536,
			DiskMiB:   64,
			CreatedAt: hourAgo,
		},
	})})
	want := `NAME            STATE                       IMAGE           CPUS   MEMORY   DISK    CREATED             ID
web             running, about an hour ago  debian:trixie   2      1GiB     16GiB   about an hour ago   aaaaaaaaaaaa
`
	got := banger(t, home, "ls")
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if got.code != 0 || got.stderr != "" || !strings.HasPrefix(squeeze(got.stdout), squeeze(want)) {
		t.Errorf("banger ls = %+v", got)
	}
	if !strings.Contains(got.stdout, "stopped (vmm died)") || !strings.Contains(got.stdout, "1.5GiB") {
		t.Errorf("banger ls prints\n%s", got.stdout)
	}
	columns := map[int]bool{}
	for line := range strings.Lines(got.stdout) {
		for _, word := range []string{" CPUS", " 2 ", " 1 "} {
			if i := strings.Index(line, word); i >= 0 {
				columns[i] = true
			}
		}
	}
	if len(columns) != 1 {
		t.Errorf("the column CPUS is not straight:\n%s", got.stdout)
	}
	var vms []api.Machine
	if asJSON := banger(t, home, "ls", "--json"); json.Unmarshal([]byte(asJSON.stdout), &vms) != nil || len(vms) != 2 {
		t.Errorf("banger ls --json prints\n%s", asJSON.stdout)
	}
}

// One bad name does not stop the others; the command fails all the same.
func TestManyWithOneBad(t *testing.T) {
	home := fakeDaemon(t, map[string]http.HandlerFunc{
		"POST /v1/machines/{machine}/start": func(w http.ResponseWriter, r *http.Request) {
			name := r.PathValue("machine")
			if strings.HasPrefix(name, "bad") {
				refuses(api.Errorf(api.CodeNotFound, "no machine named %q", name))(w, r)
				return
			}
			says(
				api.Event[api.Machine]{Progress: &api.Progress{Stage: "boot kernel", State: api.ProgressDone, ElapsedMS: 1500}},
			)(
				w,
				r,
			)
			says(api.Event[api.Machine]{Result: &api.Machine{Name: name}})(w, r)
		},
	})
	got := banger(t, home, "start", "a", "bad1", "b", "bad2")
	if got.code != exitFailure {
		t.Errorf("exit code %d, want 1", got.code)
	}
	for _, want := range []string{`no machine named "bad1"`, `no machine named "bad2"`, "a: boot kernel: 1.5 s", "b: boot kernel: 1.5 s"} {
		if strings.Count(got.stderr, want) != 1 {
			t.Errorf("stderr has not %q once:\n%s", want, got.stderr)
		}
	}
	if got.stdout != "a\nb\n" && got.stdout != "b\na\n" {
		t.Errorf("stdout = %q, want a and b", got.stdout)
	}
	if one := banger(t, home, "start", "a"); one.stderr != "boot kernel: 1.5 s\n" {
		t.Errorf("for one machine the stage is %q", one.stderr)
	}
	if quiet := banger(t, home, "start", "-q", "a"); quiet.stderr != "" {
		t.Errorf("with --quiet: %q", quiet.stderr)
	}
	if failed := banger(t, home, "start", "--json", "bad1"); failed.stdout != "[]\n" {
		t.Errorf("JSON of nothing is %q, want an empty list", failed.stdout)
	}
}

// The exit code of a session is the command's; its streams stay apart.
func TestExec(t *testing.T) {
	exit := func(e api.ExecExit) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var body api.Exec
			json.NewDecoder(r.Body).Decode(&body)
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(
				conn,
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.ExecUpgrade+"\r\n\r\n",
			)
			frames := api.NewFrameConn(conn, buffered.Reader)
			frames.Write(api.FrameStdout, []byte(strings.Join(body.Argv, " ")+strings.Join(body.Env, " ")+"\n"))
			frames.Write(api.FrameStderr, []byte("err\n"))
			if e.Code >= 0 {
				frames.WriteJSON(api.FrameExit, e)
			}
		}
	}
	tests := []struct {
		name string
		args string
		exit api.ExecExit
		want result
	}{
		{"OK", "exec web -- echo hi", api.ExecExit{}, result{0, "echo hi\n", "err\n"}},
		{"FlagsOfTheCommand", "exec web ls -l", api.ExecExit{}, result{0, "ls -l\n", "err\n"}},
		{"Env", "exec -e A=b -e HERE -e GONE web -- x", api.ExecExit{}, result{0, "xA=b HERE=yes\n", "err\n"}},
		{"Code", "exec web -- x", api.ExecExit{Code: 42}, result{42, "x\n", "err\n"}},
		{"Signal", "exec web -- x", api.ExecExit{Code: 137, Signal: 9}, result{137, "x\n", "err\n"}},
		{
			"NotFound",
			"exec web -- x",
			api.ExecExit{Code: 127, Why: "x: not found"},
			result{127, "x\n", "err\nbanger: x: not found\n"},
		},
		{
			"Broke",
			"exec web -- x",
			api.ExecExit{Error: api.Errorf(api.CodeUnavailable, "the guest is gone")},
			result{1, "x\n", "err\nbanger: the guest is gone\n"},
		},
		{
			"DaemonDied",
			"exec web -- x",
			api.ExecExit{Code: -1},
			result{
				1,
				"x\n",
				"err\nbanger: the connection to the command broke: unexpected EOF\n  the machine may go on: banger ls\n",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			home := fakeDaemon(t, map[string]http.HandlerFunc{"POST /v1/machines/web/exec": exit(tt.exit)})
			if diff := cmp.Diff(tt.want, banger(t, home, strings.Fields(tt.args)...), cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("banger %s (-want +got):\n%s", tt.args, diff)
			}
		})
	}
}

func TestDaemonStatusAndStop(t *testing.T) {
	none := banger(t, t.TempDir(), "daemon", "status")
	if none.code != exitFailure || !strings.Contains(none.stderr, "no daemon runs for") {
		t.Errorf("daemon status without one = %+v", none)
	}
	if got := banger(t, t.TempDir(), "daemon", "stop"); got.code != 0 || got.stderr != "" {
		t.Errorf("daemon stop without one = %+v", got)
	}
	got := banger(t, fakeDaemon(t, nil), "daemon", "status")
	for _, want := range []string{"42", "v1", "1m1s", "1MiB", "3, 1 running"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("daemon status lacks %q:\n%s", want, got.stdout)
		}
	}
}

func TestDoctor(t *testing.T) {
	home := fakeDaemon(t, map[string]http.HandlerFunc{"GET /v1/doctor": says([]api.Check{
		{Name: "kvm", Status: api.CheckOK, Detail: "/dev/kvm opens"},
		{Name: "qemu", Status: api.CheckFailed, Detail: "not found", Repair: "sudo apt-get install qemu"},
	})})
	got := banger(t, home, "doctor")
	want := "✓ kvm              /dev/kvm opens\n✗ qemu             not found\n                   repair: sudo apt-get install qemu\n"
	if diff := cmp.Diff(result{1, want, ""}, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("banger doctor (-want +got):\n%s", diff)
	}
}

func TestConfigAndVersion(t *testing.T) {
	home := t.TempDir()
	if got := banger(t, home, "config", "show"); got.code != 0 || !strings.Contains(got.stdout, "BANGER_HOME") ||
		!strings.Contains(got.stdout, "sources.debian_mirror") {
		t.Errorf("config show = %+v", got)
	}
	if got := banger(t, home, "version"); got.code != 0 || !strings.HasPrefix(got.stdout, "banger ") {
		t.Errorf("version = %+v", got)
	}
	var version map[string]any
	if got := banger(t, home, "version", "--json"); json.Unmarshal([]byte(got.stdout), &version) != nil ||
		version["build"] == "" {
		t.Errorf("version --json = %+v", got)
	}
}

// Every command can be understood from its help.
func TestEveryCommandIsExplained(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" { // cobra's own
			return
		}
		if c.Short == "" || c.Example == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short %q, Example %q", c.CommandPath(), c.Short, c.Example)
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") || !strings.Contains(line, "banger") {
				t.Errorf("%s: example %q", c.CommandPath(), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	a := &app{Process: Process{Getenv: func(string) string { return "" }}}
	walk(a.root())
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := banger(t, t.TempDir(), "completion", shell); got.code != 0 || !strings.Contains(got.stdout, "banger") ||
			got.stderr != "" {
			t.Errorf("completion %s: exit code %d, %d bytes, %q", shell, got.code, len(got.stdout), got.stderr)
		}
	}
}

func TestCompletion(t *testing.T) {
	home := fakeDaemon(t, map[string]http.HandlerFunc{
		"GET /v1/machines": says([]api.Machine{{Name: "web", State: api.StateRunning, Image: "debian:trixie"}}),
		"GET /v1/images":   says([]api.Image{{Name: "debian:trixie", Names: []string{"debian:trixie"}}}),
		"GET /v1/kernels":  says([]api.Kernel{{Name: "debian:trixie", Names: []string{"debian:trixie"}, Release: "6.12"}}),
	})
	tests := []struct{ args, want string }{
		{"start |", "web\trunning, debian:trixie\n:4\n"},
		{"shell |", "web\trunning, debian:trixie\n:4\n"},
		{"shell web |", ":0\n"},
		{"image rm |", "debian:trixie\n:4\n"},
		{"kernel rm |", "debian:trixie\t6.12\n:4\n"},
		{"run --image |", "debian:trixie\n:4\n"},
		{"run --wait |", "running\nbooted\n:4\n"},
	}
	for _, tt := range tests {
		args := strings.Fields(tt.args)
		args[len(args)-1] = ""
		got := banger(t, home, append([]string{"__complete"}, args...)...)
		if diff := cmp.Diff(tt.want, got.stdout); diff != "" {
			t.Errorf("complete %q (-want +got):\n%s", tt.args, diff)
		}
	}
	// Without a daemon nothing is completed, and none is started.
	empty := t.TempDir()
	if got := banger(t, empty, "__complete", "start", ""); got.stdout != ":4\n" {
		t.Errorf("complete without a daemon: %q", got.stdout)
	}
	if entries, _ := os.ReadDir(empty); len(entries) != 0 {
		t.Errorf("completing left %v", entries)
	}
}

// Run tells an interrupt by context.Canceled, in whatever form the standard library hands the
// signal on.
func TestSignalIsCancellation(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(signalError{os.Interrupt})
	client := api.NewClient(filepath.Join(t.TempDir(), "socket"))
	defer client.CloseIdle()
	for name, call := range map[string]func() error{
		"Image": func() error { _, err := client.Image(ctx, "x"); return err },
		"Exec":  func() error { _, err := client.Exec(ctx, api.Exec{Machine: "x"}); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want a cancellation", name, err)
		}
	}
}
