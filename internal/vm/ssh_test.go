package vm

import (
	"os"
	"strings"
	"testing"

	"banger/api"
	homefolder "banger/internal/home"
	"banger/internal/ssh"
)

// A VM's host key is pinned at first, then holds until the user takes another one, and is forgotten
// with the VM.
func TestPinHostKey(t *testing.T) {
	const one, two = "ssh-ed25519 AAAAone", "ssh-ed25519 AAAAtwo"
	h := newHome(t, fakeWell)
	m := h.manager()
	v := h.create(m, api.CreateMachine{Name: "web"})
	known := func() string {
		text, err := os.ReadFile(ssh.HomeDir(homefolder.Dir(h.dir)).KnownHosts())
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, step := range []struct {
		name, key string
		replace   bool
		code      api.Code // empty: taken
		want      string
	}{
		{"first", one, false, "", one},
		{"the same", one, false, "", one},
		{"another", two, false, api.CodeConflict, one},
		{"another, taken", two, true, "", two},
		{"the first again", one, false, api.CodeConflict, two},
	} {
		err := m.hostKeys.pin(t.Context(), v.ID, step.key, step.replace)
		if (err == nil) != (step.code == "") || err != nil && api.CodeOf(err) != step.code {
			t.Errorf("%s: %v, want code %q", step.name, err, step.code)
		}
		if got, want := known(), "web.vm,"+v.ID+".vm "+step.want+"\n"; got != want {
			t.Errorf("%s: known hosts are %q, want %q", step.name, got, want)
		}
		if now, err := m.VM(t.Context(), v.ID); err != nil || now.HostKey != step.want {
			t.Errorf("%s: the machine has the key %q, %v", step.name, now.HostKey, err)
		}
	}
	if err := m.Remove(t.Context(), v.ID, true); err != nil {
		t.Fatal(err)
	}
	if got := known(); got != "" {
		t.Errorf("after the machine known hosts are %q", got)
	}
	if err := m.hostKeys.pin(t.Context(), v.ID, one, false); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a machine that is gone: %v", err)
	}
}

func TestHostServicesArePlanned(t *testing.T) {
	m := newHome(t, fakeWell).manager()
	for _, tt := range []struct {
		name  string
		want  api.CreateMachine
		words string // of the error; empty: fine
	}{
		{"OK", api.CreateMachine{Network: api.NetworkUser, HostServices: []int{80, 5432}}, ""},
		{"ErrNoNetwork", api.CreateMachine{Network: api.NetworkNone, HostServices: []int{80}}, "without a network"},
		{"ErrPort", api.CreateMachine{Network: api.NetworkUser, HostServices: []int{65536}}, "no TCP port"},
		{"ErrZero", api.CreateMachine{Network: api.NetworkUser, HostServices: []int{0}}, "no TCP port"},
		{"ErrDNS", api.CreateMachine{Network: api.NetworkUser, HostServices: []int{53}}, "name server"},
		{"ErrTwice", api.CreateMachine{Network: api.NetworkUser, HostServices: []int{80, 80}}, "twice"},
		{"ErrMany", api.CreateMachine{Network: api.NetworkUser, HostServices: make([]int, 65)}, "at most 64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rec, err := m.plan(tt.want)
			if tt.words == "" {
				if err != nil || len(rec.HostServices) != 2 {
					t.Errorf("plan = %v, %v", rec.HostServices, err)
				}
				return
			}
			if api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("plan = %v, want invalid with %q", err, tt.words)
			}
		})
	}
}
