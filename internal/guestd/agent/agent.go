// Package agent is the server in a guest through which the host runs commands, copies files and
// ends the VM: the guest side of proto/agent/v1.
//
// It runs as a process of its own beside any init, reads users, processes and sockets from files
// alone, and needs no program of the image but for asking its init whether it has booted and to
// reboot.
package agent

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"banger/internal/guestd/netcfg"
	"banger/internal/guestd/system"
	agentv1 "banger/proto/agent/v1"
	"banger/proto/agent/v1/agentv1connect"
)

// HTTP/2 windows. All that one stream's process has not read yet counts against the connection's
// window, which the standard library bounds to 4 MiB: with these, 60 processes that do not read
// their input leave room for others.
const (
	streamWindowBytes = 64 << 10
	connWindowBytes   = 4<<20 - 1
	frameBytes        = 2 * agentv1.MaxChunkBytes // a chunk in one frame
	maxStreams        = 1000
)

// Config is what an agent needs to know. The folders are those of the guest but for tests.
type Config struct {
	Build  string        // version of this program
	Record system.Record // how the VM booted
	Root   string        // where the image's root is: /
	Log    *slog.Logger
}

// Server answers the host. Its methods are safe for concurrent use.
type Server struct {
	config  Config
	http    *http.Server
	oom     *oomScore
	booted  *bootWatch
	streams *streams

	// How a machine ends; a test's must not.
	reset         func() error
	rebootRequest func(init, root string) (ask func() error, err error)

	findCard    func(context.Context) (string, error) // the network card's name; a test's has another driver
	configuring chan struct{}                         // holds one while Configure is at work

	mu       sync.Mutex
	sessions map[int]*process // of Exec, by pid
	ending   bool             // whether the init is being asked to reboot
}

// New makes a server which is closed by Close.
func New(config Config) *Server {
	s := &Server{
		config: config, sessions: map[int]*process{}, oom: &oomScore{}, streams: newStreams(),
		reset: system.Reset, rebootRequest: rebootRequest,
		findCard: netcfg.WaitCard, configuring: make(chan struct{}, 1),
	}
	s.booted = watchBoot(config)
	// Without compression, which Connect has on by default: the bytes do not leave the machine.
	_, handler := agentv1connect.NewAgentHandler(
		s, connect.WithReadMaxBytes(agentv1.MaxMessageBytes), connect.WithCompression("gzip", nil, nil),
	)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:   checkProtocol(agentv1.Protocol, handler),
		Protocols: protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              frameBytes,
			MaxReceiveBufferPerStream:     streamWindowBytes,
			MaxReceiveBufferPerConnection: connWindowBytes,
		},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(config.Log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve answers connections of l until l fails or the server is closed. One server serves many
// listeners.
func (s *Server) Serve(l net.Listener) error { return s.http.Serve(l) }

// Close ends all calls, which kills the processes of Exec, and stops watching the boot.
func (s *Server) Close() error {
	err := s.http.Close()
	s.streams.close()
	s.booted.stop()
	return err
}

// WaitBooted waits for the image's init.
func (s *Server) WaitBooted(ctx context.Context, _ *agentv1.WaitBootedRequest) (*agentv1.WaitBootedResponse, error) {
	select {
	case <-s.booted.done:
		return &agentv1.WaitBootedResponse{State: s.booted.state}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
