package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/store"
)

// doomedFlag makes this test binary a daemon that dies; its arguments are those of doomedMain.
const doomedFlag = "--doomed"

// change is a flow on the VM "web", or one that makes it.
type change struct {
	name  string
	want  api.CreateMachine // how "web" is made before; without a name it is not
	start bool              // "web" runs before
	state api.State         // recorded before by a daemon that is gone: the flow is that of the next daemon's Recover
	do    func(ctx context.Context, m *Manager) error
	flows []string // whose faults are tried; empty: all
}

var bg = context.Background()

// changes are all flows, in each situation that makes another list of steps of them. Restart is
// Stop, then Start.
func changes() []change {
	web := api.CreateMachine{Name: "web"}
	forwarded := api.CreateMachine{Name: "web", Forwards: []api.Forward{freeForward()}}
	removing := api.CreateMachine{Name: "web", AutoRemove: true}
	create := func(ctx context.Context, m *Manager) error { _, err := m.Create(ctx, forwarded); return err }
	start := func(ctx context.Context, m *Manager) error { _, err := m.Start(ctx, "web", 0); return err }
	stop := func(ctx context.Context, m *Manager) error { _, err := m.Stop(ctx, "web", 0); return err }
	kill := func(ctx context.Context, m *Manager) error { _, err := m.Kill(ctx, "web", unix.SIGKILL); return err }
	remove := func(ctx context.Context, m *Manager) error { return m.Remove(ctx, "web", true) }
	natOff := func(ctx context.Context, m *Manager) error { _, err := m.SetNAT(ctx, "web", false); return err }
	services := func(ctx context.Context, m *Manager) error {
		_, err := m.SetHostServices(ctx, "web", []int{80})
		return err
	}
	addForward := func(ctx context.Context, m *Manager) error {
		_, err := m.AddForward(ctx, "web", forwarded.Forwards[0])
		return err
	}
	lease := func(ctx context.Context, m *Manager) error {
		ctx, leave := context.WithCancel(ctx)
		return m.Lease(ctx, "web", leave, nil)
	}
	build := func(ctx context.Context, m *Manager) error { return m.Build(ctx, testBuild(ctx, m)) }
	all := []change{
		{name: "create", do: create},
		{name: "start", want: forwarded, do: start},
		{name: "stop", want: forwarded, start: true, do: stop},
		{name: "stop what removes itself", want: removing, start: true, do: stop},
		{name: "kill", want: forwarded, start: true, do: kill},
		{name: "remove", want: web, do: remove},
		{name: "remove what runs", want: forwarded, start: true, do: remove},
		{name: "record end", want: forwarded, start: true, do: killVMM},
		{name: "nat", want: web, start: true, do: natOff},
		{name: "nat of a stopped machine", want: web, do: natOff},
		{name: "host services", want: web, start: true, do: services},
		{name: "add forward", want: web, start: true, do: addForward},
		{name: "remove forward", want: forwarded, start: true, do: removeForward},
		{name: "lease", want: web, do: lease},
		{name: "build", flows: []string{"build", "provision", "remove"}, do: build},
	}
	for _, state := range []api.State{api.StateStarting, api.StateStopping, api.StateRemoving} {
		all = append(all, change{name: "recover what was " + string(state), want: forwarded, start: true, state: state})
	}
	return all
}

func removeForward(ctx context.Context, m *Manager) error {
	v, err := m.VM(ctx, "web")
	if err != nil {
		return err
	}
	return m.RemoveForward(ctx, "web", v.Forwards[0])
}

// freeForward is a forward of a port that nobody has now.
func freeForward() api.Forward {
	f := api.Forward{GuestPort: 80}
	if err := completeForward(&f); err != nil {
		panic(err)
	}
	return f
}

// killVMM ends web's VMM behind the daemon's back and waits until its end is recorded.
func killVMM(ctx context.Context, m *Manager) error {
	v, err := m.VM(ctx, "web")
	if err != nil {
		return err
	}
	if err := unix.Kill(v.VMM.PID, unix.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err = m.Wait(ctx, v.ID, api.WaitStopped)
	return err
}

// testBuild is a build that leaves its root in the home, as an image is.
func testBuild(ctx context.Context, m *Manager) Build {
	images, err := m.store.Artifacts(ctx, store.KindImage)
	if err != nil || len(images) == 0 {
		panic(fmt.Sprint("no image: ", err))
	}
	return Build{
		ImageName: "web", From: store.Image{ID: images[0].ID, Name: images[0].Name}, SizeMiB: 64,
		Network:    api.NetworkUser,
		MakeInputs: func(_ context.Context, path string) error { return os.WriteFile(path, []byte("inputs"), 0o600) },
		Work:       func(ctx context.Context, agent *guest.Client) error { _, err := agent.Health(ctx); return err },
		Take:       func(_ context.Context, path string) error { return os.Remove(path) },
	}
}

// point is a moment of a step of a flow.
type point struct {
	flow, step string
	when       moment
}

func (p point) String() string { return fmt.Sprintf("%s/%s/%s", p.flow, p.step, p.when) }

// faults has flows fail. It is safe for concurrent use.
type faults struct {
	mu   sync.Mutex
	seen []point
	fail map[string]func() error // once each
}

var errInjected = errors.New("injected")

func (f *faults) ask(flow, step string, when moment) error {
	f.mu.Lock()
	p := point{flow, step, when}
	f.seen = append(f.seen, p)
	fail := f.fail[p.String()]
	delete(f.fail, p.String())
	f.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail()
}

// begin forgets what was seen, and has these points fail once each.
func (f *faults) begin(points ...point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.fail = nil, map[string]func() error{}
	for _, p := range points {
		f.fail[p.String()] = func() error { return errInjected }
	}
}

// end tells what was seen, each point once, and that what was to fail did.
func (f *faults) end(t *testing.T) []point {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.fail {
		t.Errorf("%s was not met", p)
	}
	f.fail = nil
	var all []point
	for _, p := range f.seen {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// Whatever fails in a flow, the VM is as before or as after it, and can be used; also when the undo
// fails too. So it is when the daemon is killed there and another one follows.
func TestFaults(t *testing.T) {
	for _, c := range changes() {
		t.Run(c.name, c.testFaults)
	}
}

func (c change) testFaults(t *testing.T) {
	h, f := c.home(t) // which each try leaves empty
	points, was, is := c.try(t, h, f)
	if len(points) == 0 {
		t.Fatal("the flow has no steps")
	}
	run := func(name string, do func(t *testing.T) string) {
		ok := t.Run(name, func(t *testing.T) {
			if got := do(t); got != was && got != is {
				t.Errorf("the machine is %q, want %q or %q", got, was, is)
			}
		})
		if !ok {
			t.FailNow() // what it left would disturb the others
		}
	}
	var undone []point // by the failure of trigger
	var trigger point
	for i, p := range points {
		// After a step is before the next one, but for what is undone.
		same := p.when == after && i < len(points)-1
		if same && len(undone) == 0 {
			continue
		}
		run("fails/"+p.String(), func(t *testing.T) string {
			seen, _, got := c.try(t, h, f, p)
			if undos := undosOf(seen); len(undos) >= len(undone) {
				undone, trigger = undos, p
			}
			return got
		})
		if !same {
			run("killed/"+p.String(), func(t *testing.T) string { return c.kill(t, h, p) })
		}
	}
	for _, p := range undone {
		run("fails twice/"+p.String(), func(t *testing.T) string {
			_, _, got := c.try(t, h, f, trigger, p)
			return got
		})
		if p.when == before {
			run("killed in undo/"+p.String(), func(t *testing.T) string { return c.kill(t, h, p, trigger) })
		}
	}
}

func undosOf(points []point) (undos []point) {
	for _, p := range points {
		if strings.HasPrefix(p.step, "undo ") {
			undos = append(undos, p)
		}
	}
	return undos
}

// home is where a change happens.
func (c change) home(t *testing.T) (*home, *faults) {
	h := newHome(t, fakeWell)
	if c.name == "build" {
		h, _ = buildHome(t, fakeWell)
	}
	return h.withNetwork(), &faults{}
}

// prepare brings about the situation and returns what it looks like; the daemon that did it is at
// its end if the next one is to find it.
func (c change) prepare(h *home, m *Manager) string {
	h.t.Helper()
	if c.want.Name == "" {
		return h.picture()
	}
	v := h.create(m, c.want)
	if c.start {
		h.start(m, v.ID)
	}
	was := h.picture()
	if c.state != "" {
		if err := errors.Join(m.Close(), h.store.SetState(bg, v.ID, c.state, "")); err != nil {
			h.t.Fatal(err)
		}
	}
	return was
}

// try performs the change while these points fail. It checks what is left, and returns what was
// seen and how the VM was before and is now.
func (c change) try(t *testing.T, h *home, f *faults, fail ...point) (seen []point, was, is string) {
	t.Helper()
	h.t, h.fault = t, f.ask
	m := h.manager()
	was = c.prepare(h, m)
	f.begin(fail...)
	if c.state != "" {
		m = h.manager()
	} else if err := c.do(bg, m); err != nil && len(fail) == 0 {
		t.Fatal(err)
	}
	h.awaitSettled(m)
	seen = f.end(t)
	is = h.picture()
	h.checkAll(m)
	h.use(m)
	return c.ofInterest(seen), was, is
}

func (c change) ofInterest(seen []point) []point {
	return slices.DeleteFunc(seen, func(p point) bool { return len(c.flows) > 0 && !slices.Contains(c.flows, p.flow) })
}

// kill performs the change in a daemon that is killed at a point, after others failed, and returns
// how the VM is when another daemon has come.
func (c change) kill(t *testing.T, h *home, at point, fail ...point) string {
	t.Helper()
	h.t, h.fault = t, nil
	m := h.manager()
	c.prepare(h, m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	args := []string{doomedFlag, h.dir, c.name, at.String()}
	for _, p := range fail {
		args = append(args, p.String())
	}
	doomed := exec.CommandContext(t.Context(), os.Args[0], args...)
	out, err := doomed.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 { // by a signal
		t.Fatalf("the daemon was not killed: %v\n%s", err, out)
	}
	next := h.manager()
	h.awaitSettled(next)
	is := h.picture()
	h.checkAll(next)
	h.use(next)
	return is
}

// doomedMain is a daemon of the home that performs a change and dies by a signal at a point.
func doomedMain(args []string) {
	dir, name, at := args[0], args[1], args[2]
	db, err := store.Open(bg, filepath.Join(dir, "state.db"))
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	self, _ := os.Executable()
	m := New(testOptions(dir, db, self))
	m.config.Network = api.NetworkUser
	f := &faults{}
	m.fault = f.ask
	f.begin()
	for _, p := range args[3:] {
		f.fail[p] = func() error { return errInjected }
	}
	f.fail[at] = func() error {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	i := slices.IndexFunc(changes(), func(c change) bool { return c.name == name })
	err = m.Recover(bg)
	if c := changes()[i]; err == nil && c.do != nil {
		err = c.do(bg, m)
	}
	<-time.After(20 * time.Second) // what goes on behind Recover
	fmt.Println("lived:", err)
	os.Exit(4)
}
