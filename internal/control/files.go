package control

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"banger/api"
)

// Stream is where a download goes. What was written reaches the reader at the latest with Flush.
type Stream interface {
	io.Writer
	Flush() error
}

// followInterval is how often a console that is followed is looked at for more.
const followInterval = 100 * time.Millisecond

// ReadFiles writes files of a running machine as a tar stream.
func (c *Control) ReadFiles(ctx context.Context, in api.Files, to Stream) error {
	agent, _, err := c.o.VMs.Agent(ctx, in.Machine)
	if err != nil {
		return err
	}
	return agent.ReadTar(ctx, in.Path, to)
}

// WriteFiles unpacks a tar stream in a running machine.
func (c *Control) WriteFiles(ctx context.Context, in api.Files, tar io.Reader) (api.None, error) {
	agent, _, err := c.o.VMs.Agent(ctx, in.Machine)
	if err != nil {
		return api.None{}, err
	}
	return api.None{}, agent.WriteTar(ctx, in.Path, tar)
}

// Logs writes the console since the last start, and with Follow goes on until the machine has
// stopped.
func (c *Control) Logs(ctx context.Context, in api.Logs, to Stream) error {
	v, err := c.o.VMs.VM(ctx, in.Machine)
	if err != nil {
		return err
	}
	console, err := os.Open(c.o.VMs.Dir(v.ID).ConsoleLog())
	if os.IsNotExist(err) {
		return api.Errorf(api.CodeConflict, "machine %s was never started", v.Name).
			WithRemedy(api.OpStartMachine.Remedy(api.StartMachine{Machine: v.Name}, "start it"))
	}
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	defer console.Close()
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		now, stateErr := c.o.VMs.VM(ctx, v.ID) // before the copy, so that the last bytes are not missed
		if _, err := io.Copy(to, console); err != nil {
			return err
		}
		if err := to.Flush(); err != nil || !in.Follow || stateErr != nil || now.State == api.StateStopped {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
