package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// fakeQEMU makes this test program play QEMU and guest: "serve" answers on the port, "silent" says
// nothing, "dies" ends at once.
const fakeQEMU = "BENCH_FAKE_QEMU"

func TestMain(m *testing.M) {
	if role := os.Getenv(fakeQEMU); role != "" {
		if err := playQEMU(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func playQEMU(role string, args []string) error {
	if role == "dies" {
		return errors.New("no such machine")
	}
	_, path, _ := strings.Cut(strings.Join(args, " "), "-chardev socket,id=port,path=")
	path, _, _ = strings.Cut(path, " ")
	port, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(port)
	if role == "silent" {
		lines.Scan()
		return nil
	}
	fmt.Fprintln(port, "ready")
	for lines.Scan() {
		fmt.Fprintln(port, len(lines.Text())) // a path is answered by its length: not 0
	}
	return nil
}

func startFake(t *testing.T, role string) *bareQEMU {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(fakeQEMU, role)
	q, err := startBare(t.Context(), machine{binary: self}, "/initrd", "quiet", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.kill)
	return q
}

func TestBareQEMUServes(t *testing.T) {
	q := startFake(t, "serve")
	if err := q.firstByte(t.Context()); err != nil {
		t.Fatal(err)
	}
	if line, err := q.readLine(t.Context()); err != nil || line != "ready" {
		t.Fatalf("the first line is %q, %v", line, err)
	}
	if err := q.run(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if err := q.run(t.Context(), "/bin/x"); err == nil || err.Error() != "/bin/x ended with 6" {
		t.Errorf("the error is %v", err)
	}
	q.kill()
	if _, err := q.ask(t.Context(), ""); err == nil {
		t.Error("a killed QEMU answers")
	}
}

func TestBareQEMUDies(t *testing.T) {
	q := startFake(t, "dies")
	if err := q.firstByte(t.Context()); err == nil || !strings.Contains(err.Error(), "no such machine") {
		t.Errorf("the error is %v, want what QEMU said", err)
	}
}

// Both waits end with their context: for QEMU to connect, which here it does, and for the guest's
// first byte.
func TestBareQEMUSilent(t *testing.T) {
	q := startFake(t, "silent")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.firstByte(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v, want the deadline's", err)
	}
}

func TestBareQEMUMissing(t *testing.T) {
	if _, err := startBare(t.Context(), machine{binary: "/no/qemu"}, "", "", t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
}
