package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeHost is one whose /dev/kvm opens, with a kernel, and a QEMU that does what act says.
func fakeHost(t *testing.T, act string) (p Prober, kernel string) {
	t.Helper()
	dir := t.TempDir()
	kernel = filepath.Join(dir, "vmlinux")
	if err := errors.Join(os.WriteFile(kernel, []byte("kernel"), 0o644),
		os.WriteFile(dir+"/kvm", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return Prober{Binary: fakeBinary(t, act), CacheDir: filepath.Join(dir, "cache"), KVMPath: dir + "/kvm"}, kernel
}

// KVM is believed in when a kernel has spoken and ended under it, and only then. Why not is said in
// one line.
func TestTrialBoot(t *testing.T) {
	const failed = "opens, but a trial boot under KVM did not work: "
	tests := []struct {
		name, act string
		accel     Accel
		why       string
	}{
		{"Works", "say Linux version 6.12; end guest-reset; exit 0", KVM, "a trial boot of this kernel under KVM worked"},
		{"Panics", "say Linux version 6.12; end guest-panic; exit 0", KVM, "worked"},
		{"EndsWithoutAWord", "end guest-reset; exit 0", TCG, failed + "the guest ended without a word of the kernel"},
		{
			"FirmwareAlone", "say Booting from ROM; end guest-reset; exit 0", TCG,
			failed + "the guest ended without a word of the kernel",
		},
		{
			"Dies", "say Linux version 6.12; complain kvm: no\nmore; exit 1", TCG,
			failed + "qemu ended: exit status 1: kvm: no",
		},
		{"DiesWithoutAReason", "say Linux version 6.12; exit 0", TCG, failed + "qemu ended: exit status 0"},
		{
			"NoMachine", "capabilities; complain failed to set MSR 0x10a; exit 1", TCG,
			failed + "qemu ended: exit status 1: failed to set MSR 0x10a",
		},
		{"DoesNotRun", "refuse cont", TCG, failed + "qemu cont: not cont"},
		{"Silent", "", TCG, failed + "the kernel said nothing within 2s"},
		{"Hangs", "say Linux version 6.12", TCG, failed + "the guest did not end within 5s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // two of them wait for seconds
			p, kernel := fakeHost(t, tt.act+"; version 10.0.2")
			got, err := p.Probe(testContext(t), kernel)
			if err != nil {
				t.Fatal(err)
			}
			if got.Accel != tt.accel || !strings.HasSuffix(got.Why, tt.why) || strings.Contains(got.Why, "\n") {
				t.Errorf("got %+v, want %s because %s", got, tt.accel, tt.why)
			}
			if got.QEMUVersion != "10.0.2" || got.TSCKHz <= 0 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// A verdict holds for what it was found with: another kernel, QEMU or device is tried anew.
func TestProbeRemembers(t *testing.T) {
	p, kernel := fakeHost(t, "say Linux version 6.12; end guest-reset; exit 0")
	first, err := p.Probe(testContext(t), kernel)
	if err != nil || first.Accel != KVM {
		t.Fatalf("got %+v, %v", first, err)
	}
	other := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(other, []byte("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Prober, *string)
		anew   bool
	}{
		{"Same", func(*Prober, *string) {}, false},
		{"Kernel", func(_ *Prober, k *string) { *k = other }, true},
		{"KernelChanged", func(_ *Prober, k *string) {
			if err := os.Chtimes(*k, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"QEMU", func(p *Prober, _ *string) { p.Binary = fakeBinary(t, "exit 0; version 9.2") }, true},
		{"Device", func(p *Prober, _ *string) { p.KVMPath = "/no/such" }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, kernel := p, kernel
			before, _ := filepath.Glob(p.CacheDir + "/*")
			tt.change(&p, &kernel)
			if _, err := p.Probe(testContext(t), kernel); err != nil {
				t.Fatal(err)
			}
			after, _ := filepath.Glob(p.CacheDir + "/*")
			if got := len(after) > len(before); got != tt.anew {
				t.Errorf("tried anew: %v, want %v", got, tt.anew)
			}
		})
	}
}

func TestProbeErrors(t *testing.T) {
	p, kernel := fakeHost(t, "exit 0; version 7.2.22")
	if _, err := p.Probe(testContext(t), kernel); err == nil || !strings.Contains(err.Error(), "QEMU 7.2.22 is too old") {
		t.Errorf("an old QEMU: %v", err)
	}
	if _, err := p.Forced(testContext(t), KVM); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("an old QEMU, forced: %v", err)
	}
	p, kernel = fakeHost(t, "exit 0")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Probe(ctx, kernel); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	if err := os.WriteFile(p.CacheDir, nil, 0o600); err != nil { // a file for a folder
		t.Fatal(err)
	}
	if _, err := p.Probe(testContext(t), kernel); err == nil || !strings.Contains(err.Error(), "keep verdict: ") {
		t.Errorf("a verdict that can not be kept: %v", err)
	}
}

// Who is told what to use is not asked for proofs, but the rate of the clock is still the host's.
func TestForced(t *testing.T) {
	p, _ := fakeHost(t, "complain must not run; exit 1; version 9.2.1")
	for _, accel := range []Accel{KVM, TCG} {
		got, err := p.Forced(testContext(t), accel)
		if err != nil || got.Accel != accel || got.Why != "forced" || got.QEMUVersion != "9.2.1" || got.TSCKHz < 100_000 {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

// A user without the right to the device is told how to get it.
func TestTryWithoutRight(t *testing.T) {
	p, kernel := fakeHost(t, "exit 1")
	if err := os.Chmod(p.KVMPath, 0); err != nil {
		t.Fatal(err)
	}
	want := "group kvm"
	if os.Getuid() == 0 { // to whom no mode says no
		want = "a trial boot under KVM did not work"
	}
	if accel, why := p.try(testContext(t), kernel); accel != TCG || !strings.Contains(why, want) {
		t.Errorf("got %s because %s, want %q", accel, why, want)
	}
}

// What an earlier program kept, or somebody wrote by hand, counts only when a machine can be made
// of it.
func TestKeptVerdict(t *testing.T) {
	whole := Verdict{Accel: TCG, Why: "kept", QEMUVersion: "10.0.2", TSCKHz: 2_000_000}
	tests := []struct {
		name   string
		change func(*Verdict)
		taken  bool
	}{
		{"Whole", func(*Verdict) {}, true},
		{"NoAccel", func(v *Verdict) { v.Accel = "" }, false},
		{"OtherAccel", func(v *Verdict) { v.Accel = "hvf" }, false},
		{"NoRate", func(v *Verdict) { v.TSCKHz = 0 }, false},
		{"NegativeRate", func(v *Verdict) { v.TSCKHz = -1 }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, kernel := fakeHost(t, "say Linux version 6.12; end guest-reset; exit 0")
			file, err := p.kept("10.0.2", kernel)
			if err != nil {
				t.Fatal(err)
			}
			v := whole
			tt.change(&v)
			if err := file.Store(v); err != nil {
				t.Fatal(err)
			}
			got, err := p.Probe(testContext(t), kernel)
			if taken := got == v; err != nil || taken != tt.taken {
				t.Errorf("got %+v, %v, taken %v, want %v", got, err, taken, tt.taken)
			}
		})
	}
}

// The console tells once that there is something, and keeps its beginning.
func TestWatcher(t *testing.T) {
	w := &watcher{spoke: make(chan struct{})}
	spoke := func() bool {
		select {
		case <-w.spoke:
			return true
		default:
			return false
		}
	}
	if n, err := w.Write(nil); n != 0 || err != nil || spoke() {
		t.Errorf("nothing was written: %d, %v, spoke %v", n, err, spoke())
	}
	for range 20 {
		if n, err := w.Write(make([]byte, 8<<10)); n != 8<<10 || err != nil || !spoke() {
			t.Fatalf("%d, %v, spoke %v", n, err, spoke())
		}
	}
	if got := len(w.String()); got > 128<<10 {
		t.Errorf("it kept %d bytes of a guest that talks without end", got)
	}
}

// Whatever a program answers to --version, it is a version of ours or an error that says what to
// install.
func FuzzParseVersion(f *testing.F) {
	f.Add([]byte("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n"))
	f.Add([]byte("version 8.2.version 7"))
	f.Fuzz(func(t *testing.T, out []byte) {
		version, err := parseVersion(out)
		if err != nil {
			if version != "" || !strings.Contains(err.Error(), "install QEMU") {
				t.Errorf("%q: %q, %v", out, version, err)
			}
			return
		}
		if strings.Trim(version, "0123456789.") != "" || version == "" {
			t.Errorf("%q: took %q", out, version)
		}
	})
}

// A QEMU that a guest has taken over may say what it likes: the monitor answers or ends, and nobody
// waits for ever.
func FuzzMonitor(f *testing.F) {
	f.Add([]byte(`{"QMP":{}}` + "\n" + `{"id":1,"return":{"value":1}}`))
	f.Add([]byte(`{"id":1,"error":{"class":"x","desc":"y"}}` + "\n" + `{"event":"STOP","data":[]}`))
	f.Add([]byte(`{"id":1,"error":null,"return":null}` + "\n" + `{"id":null}` + "\n[]"))
	f.Fuzz(func(t *testing.T, said []byte) {
		m := newMonitor(&scripted{said: strings.NewReader(string(said)), begun: make(chan struct{})}, func(Event) {})
		var result struct{ Value int }
		err := m.Execute(t.Context(), "x", nil, &result)
		<-m.done
		var refused *CommandError
		if err != nil && !errors.As(err, &refused) && !strings.HasPrefix(err.Error(), "qemu x: ") {
			t.Errorf("got %v", err)
		}
	})
}

// scripted is a QEMU's end that says its piece once it was asked something.
type scripted struct {
	said  *strings.Reader
	begun chan struct{}
}

func (s *scripted) Write(b []byte) (int, error) { close(s.begun); return len(b), nil }
func (s *scripted) Close() error                { return nil }
func (s *scripted) Read(b []byte) (int, error) {
	<-s.begun
	return s.said.Read(b)
}
