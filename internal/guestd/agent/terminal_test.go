package agent

import (
	"os"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// rawTerminal makes a pseudo-terminal that passes all bytes as they are, as a serial port does, and
// links it at path. It gives the host's end.
func rawTerminal(t *testing.T, path string) *os.File {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	if _, err := term.MakeRaw(int(slave.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(slave.Name(), path); err != nil {
		t.Fatal(err)
	}
	return master
}
