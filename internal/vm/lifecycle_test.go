package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/progress"
	"banger/internal/store"
)

func TestLife(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	made := h.create(m, api.CreateMachine{Name: "web", Env: []string{"A=b"}})
	if made.State != api.StateStopped || made.Reason != "never started" || made.VMM != nil || made.Name != "web" {
		t.Errorf("Create = %+v", made)
	}
	var stages []string
	ctx := progress.With(t.Context(), func(p api.Progress) {
		if p.State == api.ProgressDone {
			stages = append(stages, p.Stage)
		}
	})
	running, err := m.Start(ctx, "web", 0)
	if err != nil {
		t.Fatal(err)
	}
	if running.State != api.StateRunning || running.VMM == nil || running.StartedAt == nil || running.Reason != "" {
		t.Errorf("Start = %+v", running)
	}
	want := []string{
		"check files",
		"record start",
		"take lock",
		"join network",
		"open forwards",
		"start VMM",
		"configure VMM",
		"boot kernel",
		"wait for agent",
		"set clock",
		"authorize key",
		"record running",
	}
	if diff := cmp.Diff(want, stages); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if lock, err := tryLock(m.Dir(made.ID).Lock()); lock != nil || err != nil {
		t.Errorf("the VMM does not hold the lock (%v)", err)
	}
	if again, err := m.Start(t.Context(), "web", 0); err != nil || again.VMM.PID != running.VMM.PID {
		t.Errorf("Start of a running machine = %+v, %v", again.VMM, err)
	}
	stopped, err := m.Stop(t.Context(), "web", 0)
	if err != nil || stopped.State != api.StateStopped || stopped.Reason != "stopped" || stopped.VMM != nil || stopped.StoppedAt == nil {
		t.Errorf("Stop = %+v, %v", stopped, err)
	}
	if diff := cmp.Diff([]string{"disk.ext4"}, left(m.Dir(made.ID))); diff != "" {
		t.Errorf("left in the folder (-want +got):\n%s", diff)
	}
	if _, err := m.Stop(t.Context(), "web", 0); err != nil {
		t.Errorf("Stop of a stopped machine: %v", err)
	}
	if err := m.Remove(t.Context(), "web", false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(string(m.Dir(made.ID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder after Remove: %v", err)
	}
}

// The VMM is told the plan, in Firecracker's own words.
func TestConfigureTellsThePlan(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.create(m, api.CreateMachine{Name: "web"})
	h.start(m, v.ID)
	calls, err := os.ReadFile(filepath.Join(string(m.Dir(v.ID)), "calls.log"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(calls)) {
		call, _, _ := strings.Cut(line, " {")
		got = append(got, strings.TrimSpace(call))
	}
	want := []string{
		"PUT /machine-config", "PUT /boot-source", "PUT /drives/image", "PUT /drives/disk", "PUT /drives/modules",
		"PUT /vsock", "PUT /serial", "PUT /balloon", "PUT /entropy", "PUT /actions",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if !strings.Contains(string(calls), "banger.hostname=web") {
		t.Errorf("no hostname in\n%s", calls)
	}
}

// Whatever fails in a start, the VM is stopped again, says why, and can be started once more.
func TestStartFails(t *testing.T) {
	tests := []struct {
		name     string
		how      string
		damage   func(*home, *Manager, api.Machine)
		want     string
		wantCode api.Code
	}{
		{"VMMDiesAtOnce", fakeDies, nil, "ended at once: no /dev/kvm here", api.CodeInternal},
		{"VMMRefuses", fakeRefuses, nil, "configure VMM: PUT /boot-source: the kernel is no ELF file", api.CodeInternal},
		{"VMMDiesInStart", fakeDiesAtStart, nil, "boot kernel: ask VMM PUT /actions", api.CodeInternal},
		{
			"AgentNeverAnswers",
			fakeMute,
			func(_ *home, m *Manager, _ api.Machine) { m.config.BootTimeout = 300 * time.Millisecond },
			"the guest's agent did not answer within 300ms",
			api.CodeTimeout,
		},
		{
			"ConsoleIsShown",
			fakeMute,
			func(_ *home, m *Manager, _ api.Machine) { m.config.BootTimeout = 300 * time.Millisecond },
			"console ends:\n  Linux version 6.12",
			api.CodeTimeout,
		},
		{"NoVMM", fakeWell, func(_ *home, m *Manager, _ api.Machine) {
			m.pickVMM = func(context.Context, string) (string, error) { return "/nonexistent", nil }
		}, "start VMM: start /nonexistent", api.CodeInternal},
		{"PickVMMFails", fakeWell, func(_ *home, m *Manager, _ api.Machine) {
			m.pickVMM = func(context.Context, string) (string, error) {
				return "", api.Errorf(api.CodeUnavailable, "no VMM here")
			}
		}, "check files: no VMM here", api.CodeUnavailable},
		{
			"DiskGone",
			fakeWell,
			func(_ *home, m *Manager, v api.Machine) { os.Remove(m.Dir(v.ID).Disk()) },
			"the disk of machine web is gone",
			api.CodeNotFound,
		},
		{
			"ImageDamaged",
			fakeWell,
			func(h *home, m *Manager, _ api.Machine) { h.write(m.images.Rootfs(h.image), "rot") },
			"file is damaged",
			api.CodeUnavailable,
		},
		{
			"KernelDamaged",
			fakeWell,
			func(h *home, m *Manager, _ api.Machine) { h.write(m.kernels.Vmlinux(h.kernel), "rot") },
			"file is damaged",
			api.CodeUnavailable,
		},
		{"LockHeld", fakeWell, func(h *home, m *Manager, v api.Machine) {
			lock, err := tryLock(m.Dir(v.ID).Lock())
			if err != nil {
				h.t.Fatal(err)
			}
			h.t.Cleanup(func() { lock.Close() })
		}, "another VMM still holds the lock of machine web", api.CodeConflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHome(t, tt.how)
			m := h.manager()
			v := h.create(m, api.CreateMachine{Name: "web"})
			if tt.damage != nil {
				tt.damage(h, m, v)
			}
			_, err := m.Start(t.Context(), "web", 0)
			if err == nil || !strings.Contains(err.Error(), tt.want) || api.CodeOf(err) != tt.wantCode {
				t.Fatalf("Start = %v (%s), want %q (%s)", err, api.CodeOf(err), tt.want, tt.wantCode)
			}
			if strings.Contains(err.Error(), "undo") {
				t.Errorf("the rollback failed too: %v", err)
			}
			now, err := m.VM(t.Context(), "web")
			if err != nil {
				t.Fatal(err)
			}
			if now.State != api.StateStopped || !strings.HasPrefix(now.Reason, "start machine web: ") || now.VMM != nil {
				t.Errorf("after the failure: %s, %q, %v", now.State, now.Reason, now.VMM)
			}
			if m.vmms.of(v.ID) != nil {
				t.Error("a VMM is still known")
			}
			for _, name := range left(m.Dir(v.ID)) {
				if strings.HasSuffix(name, ".sock") {
					t.Errorf("%s is left", name)
				}
			}
		})
	}
}

func TestStartCanceled(t *testing.T) {
	h := newHome(t, fakeMute)
	m := h.manager()
	v := h.create(m, api.CreateMachine{Name: "web"})
	ctx, cancel := context.WithCancel(t.Context())
	ctx = progress.With(ctx, func(p api.Progress) {
		if p.Stage == "wait for agent" {
			cancel()
		}
	})
	if _, err := m.Start(ctx, v.ID, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v, want canceled", err)
	}
	if now, err := m.VM(t.Context(), v.ID); err != nil || now.State != api.StateStopped || now.VMM != nil {
		t.Errorf("after the cancel: %+v, %v", now, err)
	}
}

// A VMM that ends by itself is noticed, and the reason recorded.
func TestUnaskedEnd(t *testing.T) {
	tests := []struct {
		name    string
		signal  unix.Signal
		prepare func(Dir)
		want    string
	}{
		{"Killed", unix.SIGKILL, func(Dir) {}, "vmm died: exit status -1"},
		{"Panic", unix.SIGKILL, func(d Dir) {
			_ = os.WriteFile(d.ConsoleLog(), []byte("[ 1.0] Kernel panic - not syncing: no init\n[ 1.1] more"), 0o600)
		}, "guest panicked: Kernel panic - not syncing: no init"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHome(t, fakeWell)
			m := h.manager()
			v := h.start(m, h.create(m, api.CreateMachine{}).ID)
			tt.prepare(m.Dir(v.ID))
			if err := m.vmms.of(v.ID).process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			if now := h.await(m, v.ID, api.WaitStopped); now.Reason != tt.want {
				t.Errorf("Reason = %q, want %q", now.Reason, tt.want)
			}
		})
	}
}

func TestStopKillsStubbornGuest(t *testing.T) {
	h := newHome(t, fakeStubborn)
	m := h.manager()
	v := h.start(m, h.create(m, api.CreateMachine{}).ID)
	stopping := make(chan error, 1)
	go func() {
		_, err := m.Stop(context.Background(), v.ID, time.Minute)
		stopping <- err
	}()
	for now := v; now.State != api.StateStopping; {
		next := m.nextChange()
		var err error
		if now, err = m.VM(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		if now.State != api.StateStopping {
			<-next
		}
	}
	killed, err := m.Kill(t.Context(), v.ID, unix.SIGKILL) // takes the place of the stop that waits
	if err != nil || killed.State != api.StateStopped {
		t.Errorf("Kill = %+v, %v", killed, err)
	}
	if err := <-stopping; api.CodeOf(err) != api.CodeCanceled {
		t.Errorf("Stop = %v, want canceled", err)
	}
}

func TestKill(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.create(m, api.CreateMachine{})
	for _, signal := range []unix.Signal{unix.SIGKILL, unix.SIGCONT} {
		if _, err := m.Kill(t.Context(), v.ID, signal); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("Kill(%v) of a stopped machine = %v, want conflict", signal, err)
		}
	}
	h.start(m, v.ID)
	if now, err := m.Kill(t.Context(), v.ID, unix.SIGCONT); err != nil || now.State != api.StateRunning {
		t.Errorf("Kill(SIGCONT) = %s, %v", now.State, err)
	}
	if now, err := m.Kill(t.Context(), v.ID, unix.SIGTERM); err != nil || now.State != api.StateStopped || now.Reason != "killed" {
		t.Errorf("Kill(SIGTERM) = %s %q, %v", now.State, now.Reason, err)
	}
}

func TestRemove(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.start(m, h.create(m, api.CreateMachine{}).ID)
	err := m.Remove(t.Context(), v.ID, false)
	if e, _ := errors.AsType[*api.Error](err); e == nil || e.Code != api.CodeConflict || len(e.Remedies) != 2 ||
		e.Remedies[1].Operation != api.OpRemoveMachine.Name {
		t.Errorf("Remove of a running machine = %v, want conflict with a hint", err)
	}
	process := m.vmms.of(v.ID).process
	if err := m.Remove(t.Context(), v.ID, true); err != nil {
		t.Error(err)
	}
	select {
	case <-process.Done():
	default:
		t.Error("the VMM lives on")
	}
	if err := m.Remove(t.Context(), v.ID, true); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("Remove twice = %v, want not found", err)
	}
}

func TestAutoRemove(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.start(m, h.create(m, api.CreateMachine{AutoRemove: true}).ID)
	last, err := m.Stop(t.Context(), v.ID, 0)
	if err != nil || last.State != api.StateStopped || last.VMM != nil {
		t.Errorf("Stop = %+v, %v", last, err)
	}
	if _, err := m.VM(t.Context(), v.ID); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("machine after its stop = %v, want not found", err)
	}
	if _, err := os.Stat(string(m.Dir(v.ID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	h.create(m, api.CreateMachine{Name: "web"})
	tests := []struct {
		name string
		want api.CreateMachine
		code api.Code
		text string
	}{
		{"NameTaken", api.CreateMachine{Name: "web"}, api.CodeConflict, "exists already"},
		{"BadName", api.CreateMachine{Name: "Web"}, api.CodeInvalid, "bad machine name"},
		{"TooManyCPUs", api.CreateMachine{CPUs: 33}, api.CodeInvalid, "33 CPUs"},
		{"NoImage", api.CreateMachine{Image: "none"}, api.CodeNotFound, `no image named "none"`},
		{"NoKernel", api.CreateMachine{Kernel: "none"}, api.CodeNotFound, `no kernel named "none"`},
	}
	for _, tt := range tests {
		_, err := m.Create(t.Context(), tt.want)
		if api.CodeOf(err) != tt.code || err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: Create = %v, want %s with %q", tt.name, err, tt.code, tt.text)
		}
	}
	entries, err := os.ReadDir(filepath.Join(h.dir, "vms"))
	if len(entries) != 1 || err != nil {
		t.Errorf("%d folders, %v; want that of web alone", len(entries), err)
	}
}

func TestCreateUndone(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	ctx, cancel := context.WithCancel(t.Context())
	ctx = progress.With(ctx, func(p api.Progress) {
		if p.Stage == "make folder" && p.State == api.ProgressDone {
			cancel()
		}
	})
	if _, err := m.Create(ctx, api.CreateMachine{Name: "web"}); err == nil {
		t.Fatal("Create succeeded though it was cancelled")
	}
	if vms, err := m.VMs(t.Context()); len(vms) != 0 || err != nil {
		t.Errorf("machines = %v, %v", vms, err)
	}
	if entries, _ := os.ReadDir(filepath.Join(h.dir, "vms")); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestMadeUpNameTaken(t *testing.T) {
	h := newHome(t, fakeWell)
	m := h.manager()
	for _, adjective := range adjectives {
		for _, animal := range animals[:1] {
			h.insert(store.VM{Name: adjective + "-" + animal, State: api.StateStopped})
		}
	}
	all := animals
	animals = animals[:1] // every name that can be made up is taken
	t.Cleanup(func() { animals = all })
	v := h.create(m, api.CreateMachine{})
	if !strings.HasSuffix(v.Name, "-"+v.ID[:4]) || CheckName(v.Name) != nil {
		t.Errorf("Name = %q of %s, want digits of the id at its end", v.Name, v.ID)
	}
}
