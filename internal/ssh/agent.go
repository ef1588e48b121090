package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"banger/internal/accept"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// AgentVariable names the socket of an ssh agent, to ssh and to what runs in a session that an
// agent is lent to; ssh-agent(1).
const AgentVariable = "SSH_AUTH_SOCK"

const agentTimeout = time.Second

// AgentAnswers reports whether an agent listens at the socket: one that has ended leaves its socket
// in the environment.
func AgentAnswers(ctx context.Context, socket string) bool {
	if socket == "" {
		return false
	}
	dialer := net.Dialer{Timeout: agentTimeout} // one that is stopped accepts nobody
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// ServeAgent serves an agent that has the owner's key alone, until end, which does not wait for its
// clients. EnsureKey has made the key.
func (d Dir) ServeAgent() (socket string, end func() error, err error) {
	text, err := d.keyText()
	if err != nil {
		return "", nil, fmt.Errorf("take ssh key: %w", err)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		return "", nil, fmt.Errorf("read %s: %w", d.Key(), err)
	}
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: key, Comment: "banger"}); err != nil {
		return "", nil, fmt.Errorf("give the agent its key: %w", err)
	}
	dir, err := os.MkdirTemp("", "banger-agent-") // readable by its owner alone
	if err != nil {
		return "", nil, fmt.Errorf("make a folder for the agent's socket: %w", err)
	}
	socket = filepath.Join(dir, "socket")
	listener, err := net.Listen("unix", socket) //nolint:noctx // binding a unix socket does not block
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("open the agent's socket: %w", err), os.RemoveAll(dir))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := accept.Next(ctx, listener, func(error) {}) // who waits is served a moment later
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })() // an ssh in the background may hold it
				_ = agent.ServeAgent(keys, conn)                        // ends with the connection
			})
		}
	})
	return socket, func() error {
		cancel()
		err := errors.Join(listener.Close(), os.RemoveAll(dir))
		serving.Wait()
		return err
	}, nil
}
