package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// How a machine came to its end is said with what QEMU said last.
func TestErr(t *testing.T) {
	tests := []struct {
		name, act, want string
	}{
		{"PowerOff", "end guest-shutdown; exit 0", ""},
		{"Reset", "end guest-reset; exit 0", ""},
		{"Panic", "end guest-panic; exit 0", ""},
		{"ErrWithoutAWord", "exit 0", "qemu ended: exit status 0"},
		{"ErrComplains", "complain no room; exit 3", "qemu ended: exit status 3: no room"},
		{"ErrHostKills", "end host-signal; exit 0", "qemu ended: exit status 0 (host-signal)"},
		{"ErrGuestEndsButQEMUFails", "end guest-shutdown; exit 1", "qemu ended: exit status 1 (guest-shutdown)"},
		{
			"ErrLastReasonCounts", "end guest-reset; end host-error; complain a; complain b; exit 1",
			"qemu ended: exit status 1: a\nb (host-error)",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, err := Start(testContext(t), fakeBinary(t, tt.act), Plan{Accel: TCG}, nil, "", Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Kill()
			if err := m.Continue(testContext(t)); err != nil && !errors.Is(err, ErrMonitorClosed) {
				t.Error(err)
			}
			<-m.Done()
			got := ""
			if err := m.Err(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if err := m.Pause(testContext(t)); !errors.Is(err, ErrMonitorClosed) {
				t.Errorf("a command afterwards: %v", err)
			}
		})
	}
}

// A QEMU that does not come to its monitor fails the start, and nothing is left of it.
func TestStartFailsWithoutMachine(t *testing.T) {
	plan := Plan{Accel: TCG, Initrd: qemutestInitrd(t)}
	tests := []struct {
		name, act, want string
	}{
		{"ErrEnds", "capabilities; complain bad option; exit 1", "qemu ended: exit status 1: bad option"},
		{"ErrEndsWell", "capabilities; exit 0", "qemu ended: exit status 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Start(testContext(t), fakeBinary(t, tt.act), plan, nil, "port", Stdio{})
			if err == nil {
				m.Kill()
			}
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	plan.Initrd = "/no/such"
	if _, err := Start(testContext(t), fakeBinary(t, "exit 0"), plan, nil, "port", Stdio{}); err == nil ||
		!strings.Contains(err.Error(), "open initrd: ") {
		t.Errorf("without its initrd: %v", err)
	}
	if got := openSockets(t); got != 0 {
		t.Errorf("%d sockets are left open", got)
	}
}

func qemutestInitrd(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(path, []byte("not of whole pages"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openSockets counts those of this process.
func openSockets(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// Each file is at the number that the plan says, whichever of them there are.
func TestFilesOfQEMU(t *testing.T) {
	taps := make([]*os.File, 2)
	for i := range taps {
		f, err := os.CreateTemp(t.TempDir(), "tap")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		taps[i] = f
	}
	// In place of a QEMU: says what it was given, and ends.
	binary := filepath.Join(t.TempDir(), "qemu")
	script := "#!/bin/sh\n(echo \"$@\"; for fd in 3 4 5 6 7 8; do readlink /proc/self/fd/$fd || echo none; done) >&2\n"
	if err := os.WriteFile(binary, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	nics := []NIC{{ID: "0"}, {ID: "1"}}
	tests := []struct {
		name  string
		plan  Plan
		port  string
		taps  []*os.File
		args  []string // among QEMU's
		files []string // beginnings, from number 3 on
	}{
		{"Least", Plan{}, "", nil, []string{"socket,id=monitor,fd=3"}, []string{"socket:", "none"}},
		{
			"All",
			Plan{Initrd: qemutestInitrd(t), NICs: nics},
			"p,q", taps,
			[]string{
				"socket,id=monitor,fd=3", "socket,id=vsock,fd=4", "name=p,,q", "-initrd /proc/self/fd/5",
				"tap,id=net-0,fd=6", "tap,id=net-1,fd=7",
			},
			[]string{"socket:", "socket:", "/memfd:initrd", taps[0].Name(), taps[1].Name(), "none"},
		},
		{
			"TapsAlone",
			Plan{NICs: nics[:1]},
			"", taps[:1],
			[]string{"tap,id=net-0,fd=4"},
			[]string{"socket:", taps[0].Name(), "none"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Start(testContext(t), binary, tt.plan, tt.taps, tt.port, Stdio{})
			if err == nil {
				t.Fatal("it started")
			}
			args, files, _ := strings.Cut(strings.TrimPrefix(err.Error(), "qemu ended: exit status 0: "), "\n")
			for _, want := range tt.args {
				if !strings.Contains(args, want) {
					t.Errorf("no %s among %s", want, args)
				}
			}
			got := strings.Split(files, "\n")
			for i, want := range tt.files {
				if i >= len(got) || !strings.HasPrefix(got[i], want) {
					t.Errorf("number %d is not %s of %q", firstFD+i, want, got)
				}
			}
		})
	}
	if nics[0].FD != 0 {
		t.Errorf("the caller's plan was changed: %+v", nics)
	}
}

// Console in, console out: the guest's serial port is QEMU's stdin and stdout where the plan has no
// file.
func TestConsole(t *testing.T) {
	var out bytes.Buffer
	m, err := Start(testContext(t), fakeBinary(t, "say hello; exit 0"), Plan{Accel: TCG}, nil, "",
		Stdio{In: strings.NewReader("x"), Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if err := m.Continue(testContext(t)); err != nil && !errors.Is(err, ErrMonitorClosed) {
		t.Fatal(err)
	}
	<-m.Done()
	if out.String() != "hello\n" {
		t.Errorf("got %q", out.String())
	}
}

// Events that are not meant for us, or whose data are others than expected, change nothing.
func TestEvents(t *testing.T) {
	m := &Machine{closed: make(chan struct{}, 1)}
	for _, e := range []Event{
		{Name: "STOP", Data: []byte(`{}`)},
		{Name: "SHUTDOWN", Data: []byte(`[]`)},
		{Name: "SHUTDOWN"},
		{Name: "VSERPORT_CHANGE", Data: []byte(`7`)},
		{Name: "VSERPORT_CHANGE", Data: []byte(`{"open":"no"}`)},
	} {
		m.event(e)
	}
	if m.ended != "" || len(m.closed) != 0 {
		t.Errorf("ended %q, closed %d", m.ended, len(m.closed))
	}
	m.event(Event{Name: "SHUTDOWN", Data: []byte(`{"guest":true,"reason":"guest-reset"}`)})
	if m.ended != "guest-reset" {
		t.Errorf("ended %q", m.ended)
	}
}

// Of a talkative QEMU the end is kept, which says why.
func TestTail(t *testing.T) {
	var tl tail
	for range 3 {
		if n, err := tl.Write(bytes.Repeat([]byte("x"), stderrTail)); n != stderrTail || err != nil {
			t.Fatal(n, err)
		}
	}
	io.WriteString(&tl, "the last word")
	if got := tl.String(); len(got) != stderrTail || !strings.HasSuffix(got, "xthe last word") {
		t.Errorf("kept %d bytes, ending in %q", len(got), got[max(0, len(got)-20):])
	}
}

// A pipe has no size to be told before: it is copied as well. A folder is none.
func TestAlignedInitrdOfOther(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(fifo, []byte("content"), 0o600) }()
	f, err := alignedInitrd(fifo)
	if err := errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 2*pageSize)
	if n, err := f.ReadAt(b, 0); n != pageSize || !errors.Is(err, io.EOF) ||
		strings.TrimRight(string(b), "\x00") != "content" {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if _, err := alignedInitrd(t.TempDir()); err == nil || !strings.Contains(err.Error(), "copy initrd: ") {
		t.Errorf("a folder: %v", err)
	}
}

// The rate is that of this CPU, whose clock is not at hand otherwise, so that two measurements must
// agree.
func TestMeasureTSC(t *testing.T) {
	first, err := measureTSC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := measureTSC(t.Context())
	if err != nil || first < 100_000 || first > second*105/100 || second > first*105/100 {
		t.Errorf("got %d kHz and %d kHz, %v", first, second, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measureTSC(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
