package store

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"banger/api"
)

// Every field of a VM's record survives. A field that is added to VM and not to the statements
// fails here, because the test insists that all of them have a value.
func TestVMEveryFieldSurvives(t *testing.T) {
	s := open(t)
	image, kernel := withArtifacts(t, s)
	want := VM{
		ID: "abcdef012345", Name: "web", ImageID: image, KernelID: kernel, CPUs: 3, MemoryMiB: 512, DiskMiB: 4096,
		Env: []string{"A=b", "EMPTY=", "TEXT=with \"quotes\" and \n lines"}, AutoRemove: true, Leased: true, Builds: "mine",
		Network: api.NetworkUser, Address: netip.MustParseAddr("172.30.0.2"), NAT: true, Isolated: true,
		Forwards:     []api.Forward{{Protocol: api.UDP, Host: netip.MustParseAddr("127.0.0.1"), HostPort: 5353, GuestPort: 53}},
		HostServices: []int{80, 5432}, MTU: 1400, HostKey: "ssh-ed25519 AAAA",
		State: api.StateStopping, Reason: "asked", VMMBinary: "/usr/bin/firecracker", VMMPID: 4711, VMMStartTicks: 1 << 40,
		CreatedAt: someTime, StartedAt: someTime.Add(1e9), StoppedAt: someTime.Add(2e9),
		ImageName: "debian:trixie", KernelName: "debian:trixie",
	}
	for field, value := range reflect.ValueOf(want).Fields() {
		if value.IsZero() {
			t.Errorf("the test gives field %s no value", field.Name)
		}
	}
	ctx := t.Context()
	steps := []error{
		s.InsertVM(ctx, &want, func(map[netip.Addr]bool) (netip.Addr, error) { return want.Address, nil }),
		s.SetStopped(ctx, want.ID, "first", want.StoppedAt),
		s.SetStarting(ctx, want.ID, want.VMMBinary),
		s.SetVMM(ctx, want.ID, want.VMMPID, want.VMMStartTicks),
		s.SetRunning(ctx, want.ID, want.StartedAt),
		s.SetState(ctx, want.ID, want.State, want.Reason),
		s.SetMTU(ctx, want.ID, want.MTU),
		s.SetHostKey(ctx, want.ID, want.HostKey),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	got, err := s.VM(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("machine (-want +got):\n%s", diff)
	}
}

func TestVMStates(t *testing.T) {
	s := open(t)
	image, kernel := withArtifacts(t, s)
	const vm = "abcdef012345"
	ctx := t.Context()
	if err := s.InsertVM(ctx, &VM{ID: vm, Name: "web", ImageID: image, KernelID: kernel, State: api.StateCreating, CreatedAt: someTime}, nil); err != nil {
		t.Fatal(err)
	}
	base := VM{
		ID: vm, Name: "web", ImageID: image, KernelID: kernel, CreatedAt: someTime,
		ImageName: "debian:trixie", KernelName: "debian:trixie",
	}
	tests := []struct {
		name string
		do   func() error
		want func(*VM)
	}{
		{
			"Stopped", func() error { return s.SetStopped(ctx, vm, "never started", someTime) },
			func(v *VM) { v.State, v.Reason, v.StoppedAt = api.StateStopped, "never started", someTime },
		},
		{
			"StartingForgetsReason", func() error { return s.SetStarting(ctx, vm, "/vmm") },
			func(v *VM) { v.State, v.VMMBinary, v.StoppedAt = api.StateStarting, "/vmm", someTime },
		},
		{
			"VMM", func() error { return s.SetVMM(ctx, vm, 5, 6) },
			func(v *VM) {
				v.State, v.VMMBinary, v.VMMPID, v.VMMStartTicks, v.StoppedAt = api.StateStarting, "/vmm", 5, 6, someTime
			},
		},
		{
			"StartingForgetsOldVMM", func() error { return s.SetStarting(ctx, vm, "/other") },
			func(v *VM) { v.State, v.VMMBinary, v.StoppedAt = api.StateStarting, "/other", someTime },
		},
		{
			"Running", func() error { return errors.Join(s.SetVMM(ctx, vm, 5, 6), s.SetRunning(ctx, vm, someTime)) },
			func(v *VM) {
				v.State, v.VMMBinary, v.VMMPID, v.VMMStartTicks, v.StartedAt, v.StoppedAt = api.StateRunning, "/other", 5, 6, someTime, someTime
			},
		},
		{
			"StoppedForgetsVMM", func() error { return s.SetStopped(ctx, vm, "vmm died", someTime) },
			func(v *VM) {
				v.State, v.Reason, v.StartedAt, v.StoppedAt = api.StateStopped, "vmm died", someTime, someTime
			},
		},
		{
			"Leased", func() error { return s.SetLeased(ctx, vm, true) },
			func(v *VM) {
				v.State, v.Reason, v.StartedAt, v.StoppedAt, v.Leased = api.StateStopped, "vmm died", someTime, someTime, true
			},
		},
		{
			"Policy", func() error { return errors.Join(s.SetPolicy(ctx, vm, true, []int{80}), s.SetLeased(ctx, vm, false)) },
			func(v *VM) {
				v.State, v.Reason, v.StartedAt, v.StoppedAt, v.HostServices = api.StateStopped, "vmm died", someTime, someTime, []int{80}
				v.NAT = true
			},
		},
	}
	for _, tt := range tests { // in this order
		if err := tt.do(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		want := base
		tt.want(&want)
		got, err := s.VM(ctx, vm)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: machine (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestInsertVMErrors(t *testing.T) {
	s := open(t)
	image, kernel := withArtifacts(t, s)
	first := VM{ID: "aaaa00000001", Name: "web", ImageID: image, KernelID: kernel, State: api.StateStopped}
	if err := s.InsertVM(t.Context(), &first, nil); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		change   func(*VM)
		wantCode api.Code
		wantText string
	}{
		{"NameTaken", func(v *VM) { v.ID = "aaaa00000002" }, api.CodeConflict, `a machine named "web" exists already`},
		{"NoImage", func(v *VM) { v.ID, v.Name, v.ImageID = "aaaa00000002", "db", id("9", 64) }, api.CodeConflict, "was removed meanwhile"},
		{"NoKernel", func(v *VM) { v.ID, v.Name, v.KernelID = "aaaa00000002", "db", id("9", 64) }, api.CodeConflict, "was removed meanwhile"},
		{"IDTaken", func(v *VM) { v.Name = "db" }, api.CodeInternal, "record machine db"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := first
			tt.change(&v)
			err := s.InsertVM(t.Context(), &v, nil)
			if api.CodeOf(err) != tt.wantCode || err == nil || !strings.Contains(err.Error(), tt.wantText) {
				t.Errorf("InsertVM = %v, want %s with %q", err, tt.wantCode, tt.wantText)
			}
		})
	}
	if all, err := s.VMs(t.Context()); len(all) != 1 || err != nil {
		t.Errorf("%d machines, %v; want the first alone", len(all), err)
	}
}

func TestVMLookup(t *testing.T) {
	s := open(t)
	image, kernel := withArtifacts(t, s)
	for _, v := range []struct{ id, name string }{
		{"aaaa11110000", "web"}, {"aaaa22220000", "db"}, {"bbbb00000000", "aaaa"}, {"cccc00000000", "bbbb00000000"}, {"dddd00000000", "x"},
	} {
		if err := s.InsertVM(t.Context(), &VM{ID: v.id, Name: v.name, ImageID: image, KernelID: kernel, State: api.StateStopped}, nil); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name, ref, want string
		wantCode        api.Code
	}{
		{"Name", "web", "aaaa11110000", ""},
		{"WholeID", "aaaa22220000", "aaaa22220000", ""},
		{"Prefix", "aaaa2", "aaaa22220000", ""},
		{"ShortestPrefix", "dddd", "dddd00000000", ""},
		{"NameBeforePrefix", "aaaa", "bbbb00000000", ""},
		// Operations come back with the id: a VM named like another's id must not catch them.
		{"WholeIDBeforeName", "bbbb00000000", "bbbb00000000", ""},
		{"ErrAmbiguous", "aaaa", "", ""}, // replaced below: the name is in the way
		{"ErrTooShort", "ddd", "", api.CodeNotFound},
		{"ErrNone", "eeee", "", api.CodeNotFound},
		{"ErrUpperCase", "DDDD", "", api.CodeNotFound},
		{"ErrNotHex", "we%", "", api.CodeNotFound},
		{"ErrEmpty", "", "", api.CodeNotFound},
		{"ErrTooLong", strings.Repeat("a", 65), "", api.CodeNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantCode := tt.wantCode
			if tt.name == "ErrAmbiguous" {
				if err := s.DeleteVM(t.Context(), "bbbb00000000"); err != nil {
					t.Fatal(err)
				}
				wantCode = api.CodeInvalid
			}
			got, err := s.VM(t.Context(), tt.ref)
			if got.ID != tt.want || (wantCode == "") != (err == nil) || err != nil && api.CodeOf(err) != wantCode {
				t.Errorf("machine(%q) = %q, %v; want %q, %q", tt.ref, got.ID, err, tt.want, wantCode)
			}
			if e, ok := errors.AsType[*api.Error](err); ok && e.Hint == "" && len(e.Remedies) == 0 {
				t.Errorf("machine(%q) = %v without a hint", tt.ref, err)
			}
		})
	}
}

func TestVMsOldestFirst(t *testing.T) {
	s := open(t)
	image, kernel := withArtifacts(t, s)
	for i, v := range []struct {
		name string
		age  time.Duration
	}{{"third", 0}, {"first", 2 * time.Hour}, {"second", time.Hour}} {
		rec := VM{ID: id(fmt.Sprint(i), 12), Name: v.name, ImageID: image, KernelID: kernel, State: api.StateStopped, CreatedAt: someTime.Add(-v.age)}
		if err := s.InsertVM(t.Context(), &rec, nil); err != nil {
			t.Fatal(err)
		}
	}
	vms, err := s.VMs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range vms {
		got = append(got, v.Name)
	}
	if diff := cmp.Diff([]string{"first", "second", "third"}, got); diff != "" {
		t.Errorf("machines (-want +got):\n%s", diff)
	}
}

func TestUpdateOfMissingVM(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	for name, err := range map[string]error{
		"SetState": s.SetState(ctx, "none", api.StateStopped, ""), "SetStarting": s.SetStarting(ctx, "none", ""), "SetVMM": s.SetVMM(ctx, "none", 1, 1),
		"SetRunning": s.SetRunning(ctx, "none", someTime), "SetStopped": s.SetStopped(ctx, "none", "", someTime), "SetLeased": s.SetLeased(ctx, "none", true),
	} {
		if api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("%s of no machine = %v, want not found", name, err)
		}
	}
	if err := s.DeleteVM(ctx, "none"); err != nil {
		t.Errorf("DeleteVM of no machine = %v, want nil", err)
	}
}

// No address is ever given twice, also with many creates at once, and a deleted VM's is free again.
func TestAddressesAreLeasedOnce(t *testing.T) {
	s := open(t)
	image, kernel := withArtifacts(t, s)
	lowest := func(taken map[netip.Addr]bool) (netip.Addr, error) {
		a := netip.MustParseAddr("10.0.0.1")
		for taken[a] {
			a = a.Next()
		}
		return a, nil
	}
	const many = 200
	var group sync.WaitGroup
	for i := range many {
		group.Go(func() {
			v := VM{ID: fmt.Sprintf("%012x", i), Name: fmt.Sprintf("vm-%d", i), ImageID: image, KernelID: kernel, Network: api.NetworkUser, State: api.StateStopped}
			if err := s.InsertVM(t.Context(), &v, lowest); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	vms, err := s.VMs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]bool{}
	for _, v := range vms {
		seen[v.Address] = true
	}
	if len(vms) != many || len(seen) != many {
		t.Fatalf("%d machines have %d addresses, want %d of both", len(vms), len(seen), many)
	}
	freed := vms[17]
	if err := s.DeleteVM(t.Context(), freed.ID); err != nil {
		t.Fatal(err)
	}
	next := VM{ID: "ffffffffffff", Name: "next", ImageID: image, KernelID: kernel, Network: api.NetworkUser, State: api.StateStopped}
	if err := s.InsertVM(t.Context(), &next, lowest); err != nil || next.Address != freed.Address {
		t.Errorf("the next machine has %s, %v; want %s", next.Address, err, freed.Address)
	}
}
