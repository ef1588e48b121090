package cli

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/build"
	"banger/internal/home"
)

// TestMain is banger itself in a copy of the test's binary that is called so.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "banger" {
		os.Exit(
			Run(
				context.Background(),
				Process{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv},
			),
		)
	}
	os.Exit(m.Run())
}

// patience bounds whatever these tests wait for.
const patience = time.Minute

// program is a build of banger, and the home folder it is run with.
type program struct {
	path string
	home home.Dir
}

// twoBuilds returns two builds of banger that differ by nothing but their identity, with a home
// folder for both. Their daemon is stopped at the test's end.
func twoBuilds(t *testing.T) (one, other program) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bcli") // short: socket paths have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	folder := home.Dir(filepath.Join(dir, "home"))
	one, other = program{
		filepath.Join(dir, "one", "banger"),
		folder,
	}, program{
		filepath.Join(dir, "other", "banger"),
		folder,
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []program{one, other} {
		changed := bytes.Clone(code)
		changed[lastOfBuildID(t, self)] += byte(i)
		err := errors.Join(os.MkdirAll(filepath.Dir(p.path), 0o755), os.WriteFile(p.path, changed, 0o755))
		for _, companion := range []string{"banger-guest", "firecracker-qemu"} {
			err = errors.Join(err, os.WriteFile(filepath.Join(filepath.Dir(p.path), companion), nil, 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if r := one.run(t, "daemon", "stop"); r.code != 0 {
			t.Errorf("stop the daemon: %+v", r)
		}
		if t.Failed() {
			log, _ := os.ReadFile(folder.Log())
			t.Logf("the daemon's log:\n%s", log)
		}
		os.RemoveAll(dir)
	})
	return one, other
}

// lastOfBuildID is where the last character of a program's build id is.
func lastOfBuildID(t *testing.T, path string) int {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	note := file.Section(".note.go.buildid")
	if note == nil {
		t.Fatal("the test's binary has no build id")
	}
	data, err := note.Data()
	if err != nil {
		t.Fatal(err)
	}
	return int(note.Offset) + len(bytes.TrimRight(data, "\x00")) - 1
}

// command prepares a command line; its context ends it in time.
func (p program) command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, p.path, args...)
	command.Env = []string{
		"HOME=" + string(p.home),
		"BANGER_HOME=" + string(p.home),
		"PATH=" + os.Getenv("PATH"),
		"GORACE=atexit_sleep_ms=0",
		"GOCOVERDIR=" + filepath.Dir(p.path),
	}
	command.WaitDelay = time.Second
	return command
}

func (p program) run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	command := p.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil && command.ProcessState == nil {
		t.Fatal(err)
	}
	return result{command.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// status is what the daemon that runs says of itself.
func (p program) status(t *testing.T) (s api.DaemonStatus) {
	t.Helper()
	got := p.run(t, "daemon", "status", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &s); err != nil || got.code != 0 {
		t.Fatalf("daemon status: %+v, %v", got, err)
	}
	return s
}

// Many first commands at once start one daemon, and all of them are answered.
func TestFirstCommandsStartOneDaemon(t *testing.T) {
	one, _ := twoBuilds(t)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			if got := one.run(t, "ls", "--json"); got.code != 0 || got.stdout != "[]\n" {
				t.Errorf("banger ls = %+v", got)
			}
		})
	}
	all.Wait()
	log, err := os.ReadFile(one.home.Log())
	if started := strings.Count(string(log), "daemon started"); err != nil || started != 1 {
		t.Errorf("%d daemons started, %v", started, err)
	}
}

// A daemon that died without a word is replaced by the next command.
func TestKilledDaemonIsReplaced(t *testing.T) {
	one, _ := twoBuilds(t)
	one.run(t, "ls")
	pid := one.status(t).PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := one.run(t, "ls"); got.code != 0 || got.stderr != "" {
		t.Errorf("banger ls = %+v", got)
	}
	if again := one.status(t); again.PID == pid {
		t.Errorf("the daemon that was killed answers: %+v", again)
	}
}

// A command of another build replaces a daemon that does nothing.
func TestOtherBuildReplacesDaemon(t *testing.T) {
	one, other := twoBuilds(t)
	one.run(t, "ls")
	before := one.status(t)
	if got := other.run(t, "ls"); got.code != 0 || got.stderr != "" {
		t.Errorf("banger ls of another build = %+v", got)
	}
	after := one.status(t) // which starts and replaces none
	if after.Build == before.Build || after.PID == before.PID {
		t.Errorf("the daemon is still %+v", after)
	}
}

// While a daemon that is to be replaced finishes a change, a command of another build that reads is
// answered by it, soon; one that changes waits, says what for, and is then done by its own daemon.
func TestOtherBuildWhileDaemonIsBusy(t *testing.T) {
	one, other := twoBuilds(t)
	one.run(t, "ls")
	before := one.status(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	archive, feed := io.Pipe()
	defer feed.Close()
	loading, loaded := make(chan struct{}, 16), make(chan error, 1)
	client := api.NewClient(one.home.Socket())
	defer client.CloseIdle()
	go func() {
		_, err := client.LoadImage(ctx, api.LoadImage{}, archive, func(api.Progress) { loading <- struct{}{} })
		loaded <- err
	}()
	if _, err := io.WriteString(feed, "\x28\xb5\x2f\xfd"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-loading:
	case <-ctx.Done():
		t.Fatal("the load does not begin")
	}
	began := time.Now()
	if got := other.run(t, "ls", "--json"); got.code != 0 || got.stdout != "[]\n" || time.Since(began) > 5*time.Second {
		t.Errorf("banger ls took %s: %+v", time.Since(began), got)
	}
	if now := one.status(t); now.PID != before.PID || !now.Draining || len(now.Left) != 1 {
		t.Errorf("the daemon in between is %+v", now)
	}
	changes := map[string]*exec.Cmd{
		`no image named "nosuch"`:         other.command(ctx, "image", "rm", "nosuch"),
		`unknown image source "nosuch:x"`: other.command(ctx, "run", "--rm", "--image", "nosuch:x"),
	}
	said := map[string]*watched{}
	for want, change := range changes {
		said[want] = newWatched("wait for the daemon of another build ... load image (")
		change.Stderr = said[want]
		if err := change.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for want := range changes {
		select {
		case <-said[want].seen:
		case <-ctx.Done():
			t.Errorf("the change that waits says %q", said[want])
		}
	}
	feed.Close()
	if err := <-loaded; api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("the load that was waited for = %v, want its own error", err)
	}
	for want, change := range changes {
		if err := change.Wait(); err == nil || !strings.Contains(said[want].String(), want) {
			t.Errorf("the change that waited ended with %v, %q; want %q", err, said[want], want)
		}
	}
	if after := one.status(t); after.Build == before.Build || after.Draining {
		t.Errorf("the daemon at last is %+v", after)
	}
}

// watched is a writer that tells when it has seen some words.
type watched struct {
	buffer
	words string
	seen  chan struct{}
	once  sync.Once
}

func newWatched(words string) *watched { return &watched{words: words, seen: make(chan struct{})} }

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.buffer.Write(p)
	if strings.Contains(w.String(), w.words) {
		w.once.Do(func() { close(w.seen) })
	}
	return n, err
}

// ofThisBuild is the status of a daemon that needs no replacing.
func ofThisBuild(t *testing.T) api.DaemonStatus {
	t.Helper()
	id, err := build.ID()
	if err != nil {
		t.Fatal(err)
	}
	return api.DaemonStatus{Build: id, API: api.Version, PID: 42}
}

// What goes by the daemon's settings is refused where the user has others in mind; all else is
// done.
func TestSettingsOfTheDaemon(t *testing.T) {
	status := ofThisBuild(t)
	status.Settings = []api.Setting{
		{Key: "vmm", Value: "firecracker", Origin: "BANGER_VMM"},
		{Key: "subnet", Value: "172.30.0.0/16", Origin: "default"},
	}
	made := api.Event[api.Machine]{Result: &api.Machine{Name: "web"}}
	dir := fakeDaemonOf(t, status, map[string]http.HandlerFunc{
		"POST /v1/machines": says(made), "GET /v1/machines": says([]api.Machine{}), "DELETE /v1/images/x": says(api.None{}),
	})
	got := banger(t, dir, "create", "--name", "web")
	want := "banger: setting vmm is auto (from default), but the daemon that runs was started with firecracker\n" +
		"  replace it; what is under way goes on: banger daemon stop --drain\n"
	if got.code != exitFailure || got.stderr != want || got.stdout != "" {
		t.Errorf("create with another setting = %+v", got)
	}
	for _, args := range [][]string{{"ls"}, {"image", "rm", "x"}} {
		if got := banger(t, dir, args...); got.code != 0 {
			t.Errorf("banger %v = %+v", args, got)
		}
	}
	shown := banger(t, dir, "config", "show")
	for _, want := range []string{"the daemon that runs; auto from default has to wait", "firecracker"} {
		if !strings.Contains(shown.stdout, want) {
			t.Errorf("config show lacks %q:\n%s", want, shown.stdout)
		}
	}
	if shown.code != 0 || shown.stderr != "what waits counts for the next daemon: banger daemon stop\n" {
		t.Errorf("config show = %+v", shown)
	}
	var settings []api.Setting
	if err := json.Unmarshal([]byte(banger(t, dir, "config", "show", "--json").stdout), &settings); err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		if (s.Key == "vmm") != (s.Pending != "") ||
			s.Key == "vmm" && (s.Value != "firecracker" || s.Pending != "auto" || s.PendingOrigin != "default") {
			t.Errorf("setting %+v", s)
		}
	}
}

// A wait goes on with the next daemon when this one is replaced.
func TestWaitAcrossHandover(t *testing.T) {
	asked := 0
	dir := fakeDaemonOf(
		t,
		ofThisBuild(t),
		map[string]http.HandlerFunc{"GET /v1/machines/web/wait": func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked < 3 {
				refuses(api.Errorf(api.CodeReplaced, "the daemon was replaced meanwhile"))(w, r)
				return
			}
			says(api.Machine{Name: "web", State: api.StateRunning})(w, r)
		}},
	)
	if got := banger(t, dir, "wait", "web"); got.code != 0 || got.stderr != "" || asked != 3 {
		t.Errorf("banger wait = %+v after %d requests", got, asked)
	}
}

// A wait that has a time ends with it, in its own words.
func TestWaitTimeout(t *testing.T) {
	dir := fakeDaemonOf(t, ofThisBuild(t), map[string]http.HandlerFunc{
		"GET /v1/machines/web/wait": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	})
	if got := banger(t, dir, "wait", "web", "--timeout", "20ms"); got.code != exitFailure ||
		got.stderr != "banger: web was not running within 20ms\n" {
		t.Errorf("banger wait = %+v", got)
	}
}

// A daemon that cannot start says why, to the command that started it.
func TestDaemonCannotStart(t *testing.T) {
	one, _ := twoBuilds(t)
	records := one.home.Database()
	err := errors.Join(
		os.MkdirAll(string(one.home), 0o700),
		os.WriteFile(records, bytes.Repeat([]byte("garbage "), 1000), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	got := one.run(t, "ls")
	if got.code != exitFailure || got.stdout != "" ||
		!strings.HasPrefix(got.stderr, "banger: start daemon: it ended at once\n  ") ||
		!strings.Contains(got.stderr, "read database") {
		t.Errorf("banger ls = %+v", got)
	}
	if err := os.Remove(records); err != nil {
		t.Fatal(err)
	}
	if got := one.run(t, "ls"); got.code != 0 || got.stderr != "" {
		t.Errorf("banger ls after the repair = %+v", got)
	}
}

// What a dead daemon left in the way is no obstacle, and its log is gone on with, or moved aside
// when it is large.
func TestLeftoversOfDaemon(t *testing.T) {
	for _, large := range []bool{false, true} {
		one, _ := twoBuilds(t)
		old := "time=long ago\n"
		if large {
			old += strings.Repeat("x", maxLogBytes)
		}
		err := errors.Join(
			os.MkdirAll(string(one.home), 0o700),
			os.WriteFile(one.home.Socket(), nil, 0o600), // as a socket that nobody listens on
			os.WriteFile(one.home.Lock(), []byte("1\n"), 0o600),
			os.WriteFile(one.home.Log(), []byte(old), 0o600),
		)
		if err != nil {
			t.Fatal(err)
		}
		if got := one.run(t, "ls"); got.code != 0 {
			t.Fatalf("banger ls = %+v", got)
		}
		log, err := os.ReadFile(one.home.Log())
		if err != nil || strings.HasPrefix(string(log), old) == large || !strings.Contains(string(log), "daemon started") {
			t.Errorf("large %t: the log has %d bytes, %v", large, len(log), err)
		}
		aside, err := os.ReadFile(one.home.Log() + ".old")
		if large != (err == nil && string(aside) == old) {
			t.Errorf("large %t: aside there are %d bytes, %v", large, len(aside), err)
		}
	}
}

// A daemon that is in trouble is neither replaced nor taken for none.
func TestDaemonInTrouble(t *testing.T) {
	dir := fakeDaemon(t, nil)
	for name, handler := range map[string]http.HandlerFunc{
		"Refuses": refuses(api.Errorf(api.CodeInternal, "disk I/O error")),
		"Garbage": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "no JSON") },
	} {
		t.Run(name, func(t *testing.T) {
			server := fakeServer(t, map[string]http.HandlerFunc{"GET /v1/daemon": handler})
			for _, args := range [][]string{{"ls"}, {"create"}} {
				if got := banger(t, server, args...); got.code != exitFailure ||
					!strings.HasPrefix(got.stderr, "banger: ask the daemon: ") {
					t.Errorf("banger %v = %+v", args, got)
				}
			}
		})
	}
	if got := banger(t, strings.Repeat(dir, 20), "ls"); got.code != exitFailure || !strings.Contains(got.stderr, "107") {
		t.Errorf("a home with a long path = %+v", got)
	}
}

// A busy daemon of another build that speaks another API is waited for, also by what only reads.
func TestOtherAPIIsWaitedFor(t *testing.T) {
	status := ofThisBuild(t)
	status.Build, status.API = "other", api.Version+1
	stopping, gone := make(chan struct{}), make(chan struct{})
	dir := fakeDaemonOf(t, status, map[string]http.HandlerFunc{
		"POST /v1/daemon/stop": func(w http.ResponseWriter, _ *http.Request) {
			close(stopping)
			<-gone
			w.WriteHeader(http.StatusNoContent)
		},
		"GET /v1/machines": func(http.ResponseWriter, *http.Request) { t.Error("it was asked all the same") },
	})
	ended := make(chan result, 1)
	go func() { ended <- banger(t, dir, "ls") }()
	<-stopping
	select {
	case got := <-ended:
		t.Errorf("banger ls did not wait: %+v", got)
	case <-time.After(2 * handoverPatience):
	}
	close(gone)
	if got := <-ended; got.code != exitFailure ||
		!strings.Contains(got.stderr, "banger is not whole") { // it would start its own
		t.Errorf("banger ls = %+v", got)
	}
}
