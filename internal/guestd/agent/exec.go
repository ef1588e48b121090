package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	agentv1 "banger/proto/agent/v1"
)

type execStream = connect.BidiStream[agentv1.ExecRequest, agentv1.ExecResponse]

// chunks are the buffers of output on its way.
var chunks = sync.Pool{New: func() any { b := make([]byte, agentv1.MaxChunkBytes); return &b }}

// Exec runs one process and ends with its exit.
func (s *Server) Exec(ctx context.Context, stream *execStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("exec: the first request is not start"))
	}
	command, err := s.resolve(start)
	var p *process
	if err == nil {
		p, err = s.startProcess(command, start)
	}
	if e := (*notStarted)(nil); errors.As(err, &e) {
		return stream.Send(exitResponse(&agentv1.ExecExit{Code: e.code, Error: e.reason}))
	}
	if err != nil {
		return err
	}
	return s.run(ctx, stream, p, start)
}

// run carries the streams of a process that has started, until it has ended.
func (s *Server) run(ctx context.Context, stream *execStream, p *process, start *agentv1.ExecStart) error {
	pid := p.cmd.Process.Pid
	s.remember(pid, p)
	defer s.forget(pid)
	defer p.close()
	stop := context.AfterFunc(ctx, func() {
		_ = p.signal(syscall.SIGKILL)
		p.close() // a pump may wait for a daemon that inherited the pipe
	})
	defer stop()

	out := &output{stream: stream}
	pumps := new(errgroup.Group)
	started := &agentv1.ExecResponse_Started{Started: &agentv1.ExecStarted{Pid: uint32(pid)}}
	if err := out.send(&agentv1.ExecResponse{Response: started}); err != nil {
		_ = p.signal(syscall.SIGKILL)
		p.wait()
		return err
	}
	pumps.Go(func() error { return p.pumpTo(p.stdout, out.stdout) })
	if p.stderr != nil {
		pumps.Go(func() error { return p.pumpTo(p.stderr, out.stderr) })
	}
	if p.stdin != nil {
		go feed(stream, p, start) // ends with the stream, at the latest when this call returns
	}
	exit := p.wait()
	if err := pumps.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("send output: %w", err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return out.send(exitResponse(exit))
}

func (p *process) pumpTo(f *os.File, send func([]byte) error) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	err := p.pump(f, *buf, send)
	if err != nil {
		// Nobody reads any more: the process is to learn so by SIGPIPE rather than to wait for
		// ever.
		_ = f.Close()
	}
	return err
}

// feed hands the stream's input to the process. Once that reads no more, input is thrown away, as a
// shell's pipe does.
func feed(stream *execStream, p *process, start *agentv1.ExecStart) {
	_, err := p.stdin.Write(start.Stdin)
	if start.StdinClosed {
		err = errors.Join(err, p.closeStdin())
	}
	for {
		request, recvErr := stream.Receive()
		if recvErr != nil {
			return
		}
		if err != nil {
			continue
		}
		switch r := request.Request.(type) {
		case *agentv1.ExecRequest_Stdin:
			_, err = p.stdin.Write(r.Stdin)
		case *agentv1.ExecRequest_CloseStdin:
			err = p.closeStdin()
		}
	}
}

// output orders what two pumps and the exit send.
type output struct {
	mu     sync.Mutex
	stream *execStream
}

func (o *output) send(r *agentv1.ExecResponse) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stream.Send(r)
}

func (o *output) stdout(b []byte) error {
	return o.send(&agentv1.ExecResponse{Response: &agentv1.ExecResponse_Stdout{Stdout: b}})
}

func (o *output) stderr(b []byte) error {
	return o.send(&agentv1.ExecResponse{Response: &agentv1.ExecResponse_Stderr{Stderr: b}})
}

func exitResponse(exit *agentv1.ExecExit) *agentv1.ExecResponse {
	return &agentv1.ExecResponse{Response: &agentv1.ExecResponse_Exit{Exit: exit}}
}

// Control signals a process of Exec or resizes its terminal.
func (s *Server) Control(_ context.Context, r *agentv1.ControlRequest) (*agentv1.ControlResponse, error) {
	s.mu.Lock()
	p := s.sessions[int(r.Pid)]
	s.mu.Unlock()
	if p == nil {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no process %d of exec", r.Pid))
	}
	var err error
	switch c := r.Control.(type) {
	case *agentv1.ControlRequest_Signal:
		if c.Signal < 1 || c.Signal > 64 {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("signal %d: not between 1 and 64", c.Signal))
		}
		err = p.signal(syscall.Signal(c.Signal))
	case *agentv1.ControlRequest_Resize:
		err = p.resize(c.Resize)
	}
	if errors.Is(err, os.ErrProcessDone) {
		err = connect.NewError(connect.CodeNotFound, fmt.Errorf("process %d has ended", r.Pid))
	}
	return &agentv1.ControlResponse{}, err
}

func (s *Server) remember(pid int, p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[pid] = p
}

func (s *Server) forget(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, pid)
}
