package ssh

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"testing"

	"golang.org/x/crypto/ssh/agent"

	"banger/internal/home"
)

// An agent ends while a client holds a connection, as an ssh in the background does.
func TestServeAgent(t *testing.T) {
	d := HomeDir(home.Dir(t.TempDir()))
	if _, _, err := d.ServeAgent(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a key: %v", err)
	}
	_, err := d.EnsureKey()
	check(t, err)
	socket, end, err := d.ServeAgent()
	check(t, err)
	conn, err := net.Dial("unix", socket)
	check(t, err)
	defer conn.Close()
	keys, err := agent.NewClient(conn).List()
	check(t, err)
	if len(keys) != 1 || keys[0].Comment != "banger" {
		t.Errorf("the agent has %v, want banger's key", keys)
	}
	if !AgentAnswers(t.Context(), socket) {
		t.Error("the agent does not answer")
	}
	check(t, end())
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is there after the end")
	}
	if AgentAnswers(t.Context(), socket) {
		t.Error("the agent answers after its end")
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its socket after the end: %v", err)
	}
}
