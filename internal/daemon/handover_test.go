package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/config"
	"banger/internal/home"
	"banger/internal/host"
	"banger/internal/store"
	"banger/internal/vmtest"
)

func TestMain(m *testing.M) {
	vmtest.Main()
	goleak.VerifyTestMain(m)
}

// homeOfMachines is a home folder whose machines are vmtest's. What a test leaves of them is killed
// at its end.
func homeOfMachines(t *testing.T) Options {
	t.Helper()
	t.Setenv(vmtest.Variable, vmtest.Well)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := home.Dir(shortDir(t))
	guest := filepath.Join(string(dir), "banger-guest")
	if err := os.WriteFile(guest, []byte("init"), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), dir.Database())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(vmtest.Fill(t.Context(), string(dir), db, api.ImageDefaults{}), db.Close()); err != nil {
		t.Fatal(err)
	}
	return Options{
		Config: config.Config{
			Home: dir, Image: vmtest.Name, Kernel: vmtest.Name, CPUs: 1, MemoryMiB: 128, DiskMiB: 64, Network: api.NetworkNone,
			VMM: self, BootTimeout: 20 * time.Second, StopTimeout: 10 * time.Second,
		},
		Tools: host.Tools{Guest: guest}, Log: slog.New(slog.DiscardHandler),
	}
}

// runs starts a machine and a command in it, which echoes its input.
func (r *running) runs(t *testing.T, name string) *api.FrameConn {
	t.Helper()
	conn, err := r.client.Run(
		t.Context(),
		api.Run{Machine: api.CreateMachine{Name: name, AutoRemove: true}, Argv: []string{"cat"}, Stdin: true},
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	for {
		frame, err := conn.Read()
		if err != nil {
			t.Fatal(err)
		}
		switch frame.Type {
		case api.FrameStarted:
			return conn
		case api.FrameExit:
			t.Fatalf("the run ended: %s", frame.Payload)
		}
	}
}

// echoes checks that a session goes on.
func echoes(t *testing.T, conn *api.FrameConn, text string) {
	t.Helper()
	if err := conn.Write(api.FrameStdin, []byte(text)); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := conn.Read()
		if err != nil {
			t.Fatalf("the session broke: %v", err)
		}
		if frame.Type == api.FrameStdout {
			if string(frame.Payload) != text {
				t.Errorf("the session says %q, want %q", frame.Payload, text)
			}
			return
		}
	}
}

// ends closes a session's input and reads to the end of the connection.
func ends(t *testing.T, conn *api.FrameConn) {
	t.Helper()
	if err := conn.Write(api.FrameStdinClose, nil); err != nil {
		t.Fatal(err)
	}
	var exit *api.ExecExit
	for {
		frame, err := conn.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if frame.Type == api.FrameExit {
			if err := json.Unmarshal(frame.Payload, &exit); err != nil {
				t.Fatal(err)
			}
		}
	}
	if exit == nil || exit.Code != 0 || exit.Error != nil {
		t.Errorf("the session ended with %+v", exit)
	}
}

// settle returns when the daemon has accepted what was asked before.
func (r *running) settle(t *testing.T) {
	t.Helper()
	later := api.NewClient(r.config.Home.Socket())
	defer later.CloseIdle()
	if _, err := later.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// names lists the machines that a daemon knows.
func (r *running) names(t *testing.T) (names []string) {
	t.Helper()
	vms, err := r.client.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vms {
		names = append(names, v.Name)
	}
	return names
}

// A daemon that is replaced hands its machines over while its sessions go on; what waits is told to
// ask again, and what was to be removed at a session's end is removed by the successor.
func TestHandover(t *testing.T) {
	o := homeOfMachines(t)
	old := startWith(t, o)
	session := old.runs(t, "web")
	echoes(t, session, "before")
	waited := make(chan error, 1)
	go func() {
		_, err := old.client.WaitMachine(t.Context(), api.WaitMachine{Machine: "web", For: api.WaitStopped})
		waited <- err
	}()
	old.settle(t)
	if err := old.client.StopDaemon(t.Context(), api.StopDaemon{Drain: true}); err != nil {
		t.Fatal(err)
	}
	if err := within(t, waited, "the wait's end"); err == nil || api.CodeOf(err) != api.CodeReplaced {
		t.Errorf("the wait ended with %v", err)
	}
	successor := startWith(t, o)
	echoes(t, session, "after")
	if v, err := successor.client.Machine(t.Context(), "web"); err != nil || v.State != api.StateRunning {
		t.Errorf("the successor has %+v, %v", v, err)
	}
	again := make(chan error, 1)
	go func() {
		_, err := successor.client.WaitMachine(t.Context(), api.WaitMachine{Machine: "web", For: api.WaitStopped})
		again <- err
	}()
	ends(t, session)
	if err := within(t, again, "the second wait's end"); err != nil {
		t.Errorf("the second wait ended with %v", err)
	}
	if names := successor.names(t); len(names) != 0 {
		t.Errorf("the successor has %q", names)
	}
	old.client.CloseIdle()
	old.wait(t)
	successor.cancel()
	successor.client.CloseIdle()
	successor.wait(t)
}

// A daemon that is stopped without drain cuts its sessions, and its machines go on but for those of
// a session that removes them.
func TestStopCutsSessions(t *testing.T) {
	o := homeOfMachines(t)
	r := startWith(t, o)
	session := r.runs(t, "gone")
	if _, err := r.client.CreateMachine(t.Context(), api.CreateMachine{Name: "stays"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.StartMachine(t.Context(), api.StartMachine{Machine: "stays"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.client.StopDaemon(t.Context(), api.StopDaemon{}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := session.Read()
		if err != nil {
			break
		}
		if frame.Type == api.FrameExit {
			var exit api.ExecExit
			if err := json.Unmarshal(frame.Payload, &exit); err != nil || exit.Error == nil {
				t.Errorf("the session that was cut ended with %s, %v", frame.Payload, err)
			}
		}
	}
	r.client.CloseIdle()
	r.wait(t)
	next := startWith(t, o)
	if v, err := next.client.Machine(t.Context(), "stays"); err != nil || v.State != api.StateRunning {
		t.Errorf("the machine that was to go on is %+v, %v", v, err)
	}
	if names := next.names(t); len(names) != 1 {
		t.Errorf("machines: %q", names)
	}
	if err := next.client.RemoveMachine(context.Background(), api.RemoveMachine{Machine: "stays", Force: true}); err != nil {
		t.Error(err)
	}
	next.cancel()
	next.client.CloseIdle()
	next.wait(t)
}
