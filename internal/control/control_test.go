package control_test

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/control/controltest"
	"banger/internal/vmtest"
)

// The status counts machines, and tells what a daemon that makes way still waits for.
func TestStatus(t *testing.T) {
	c := controltest.New(t, vmtest.Well, api.ImageDefaults{})
	for _, name := range []string{"web", "plain"} {
		if _, err := c.CreateMachine(t.Context(), api.CreateMachine{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.StartMachine(t.Context(), api.StartMachine{Machine: "web"}); err != nil {
		t.Fatal(err)
	}
	s, err := c.Status(t.Context(), api.None{})
	if err != nil || s.Machines != 2 || s.RunningMachines != 1 || s.PID != os.Getpid() || s.API != api.Version || s.Draining ||
		s.Left != nil {
		t.Errorf("Status = %+v, %v", s, err)
	}
	if s.Build == "" || s.Version == "" || s.Home == "" || s.Socket == "" || s.RSSBytes == 0 || s.UptimeMS < 0 {
		t.Errorf("Status lacks something: %+v", s)
	}
	leave, err := c.Gate.Enter("POST images/pull")
	if err != nil {
		t.Fatal(err)
	}
	empty := c.Gate.Close()
	s, err = c.Status(t.Context(), api.None{})
	if err != nil || !s.Draining || len(s.Left) != 1 || !strings.HasPrefix(s.Left[0], "POST images/pull (") {
		t.Errorf("Status while draining = %+v, %v", s, err)
	}
	leave()
	if s, err = c.Status(t.Context(), api.None{}); err != nil || !s.Draining || len(s.Left) != 0 || !isDone(empty) {
		t.Errorf("Status at the end = %+v, %v", s, err)
	}
}

// What takes a guest is refused for a machine that has none, and what names nothing is not found;
// neither changes anything.
func TestRefused(t *testing.T) {
	c := controltest.New(t, vmtest.Well, api.ImageDefaults{})
	if _, err := c.CreateMachine(t.Context(), api.CreateMachine{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func(vm string) error{
		"StatsVM":    func(vm string) error { return second(c.StatsMachine(t.Context(), api.MachineRef{Machine: vm})) },
		"Ports":      func(vm string) error { return second(c.Ports(t.Context(), api.MachineRef{Machine: vm})) },
		"PrepareSSH": func(vm string) error { return second(c.PrepareSSH(t.Context(), api.PrepareSSH{Machine: vm})) },
		"KillVM":     func(vm string) error { return second(c.KillMachine(t.Context(), api.KillMachine{Machine: vm})) },
		"ReadFiles":  func(vm string) error { return c.ReadFiles(t.Context(), api.Files{Machine: vm, Path: "/"}, &stream{}) },
		"WriteFiles": func(vm string) error {
			return second(c.WriteFiles(t.Context(), api.Files{Machine: vm, Path: "/"}, strings.NewReader("")))
		},
		"WaitRunning": func(vm string) error {
			return second(c.WaitMachine(t.Context(), api.WaitMachine{Machine: vm, For: api.WaitRunning}))
		},
	} {
		if err := ask("web"); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("%s of a stopped machine = %v, want conflict", name, err)
		}
		if err := ask("nobody"); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("%s of nothing = %v, want not found", name, err)
		}
	}
	for name, err := range map[string]error{
		"ImportKernel without a name": second(c.ImportKernel(t.Context(), api.ImportKernel{Vmlinux: "/x"})),
		"KillVM with no signal":       second(c.KillMachine(t.Context(), api.KillMachine{Machine: "web", Signal: "NONE"})),
		"WaitVM for nonsense":         second(c.WaitMachine(t.Context(), api.WaitMachine{Machine: "web", For: "nonsense"})),
		"BuildImage from nowhere":     second(c.BuildImage(t.Context(), api.BuildImage{Name: "x", Sources: map[string]string{"home": "/x"}}, io.Discard)),
	} {
		if err == nil || api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s = %v, want invalid", name, err)
		}
	}
	if names := left(t, c); len(names) != 1 || names[0] != "web stopped" {
		t.Errorf("machines: %q", names)
	}
}

// A lease that ends removes its machine, running or not.
func TestLease(t *testing.T) {
	c := controltest.New(t, vmtest.Well, api.ImageDefaults{})
	if err := c.LeaseMachine(t.Context(), api.MachineRef{Machine: "nobody"}, func() { t.Error("nothing was leased") }); api.CodeOf(
		err,
	) != api.CodeNotFound {
		t.Errorf("lease of nothing = %v", err)
	}
	for _, start := range []bool{false, true} {
		v, err := c.CreateMachine(t.Context(), api.CreateMachine{Name: "web", Lease: true, AutoRemove: true})
		if err != nil {
			t.Fatal(err)
		}
		if start {
			if _, err := c.StartMachine(t.Context(), api.StartMachine{Machine: v.ID}); err != nil {
				t.Fatal(err)
			}
		}
		client, leaves := context.WithCancel(t.Context())
		held, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- c.LeaseMachine(client, api.MachineRef{Machine: v.ID}, func() { close(held) }) }()
		if !isDone(held) {
			t.Fatal("the lease is not held")
		}
		if names := left(t, c); len(names) != 1 {
			t.Errorf("machines of a lease that is held: %q", names)
		}
		leaves()
		if err := <-ended; err != nil {
			t.Errorf("LeaseVM = %v", err)
		}
		if names := left(t, c); len(names) != 0 {
			t.Errorf("machines after the lease: %q", names)
		}
	}
}
