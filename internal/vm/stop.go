package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/progress"
	"banger/internal/store"
)

// forceTimeout is how long a guest may take to reset once it was told to skip its own shutdown.
const forceTimeout = 10 * time.Second

// lastAnswerTimeout is how long a VM may take to end whose agent did not answer: it may have ended
// the agent first.
const lastAnswerTimeout = 2 * time.Second

// Stop shuts a VM down: the agent syncs and asks the init system to shut down; past the timeout (0
// means the configured one) the VM is killed. A VM that is starting is cancelled. Once begun a stop
// is finished, whatever becomes of ctx.
func (m *Manager) Stop(ctx context.Context, ref string, timeout time.Duration) (api.Machine, error) {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return api.Machine{}, err
	}
	err = m.change(ctx, rec.ID, "stop", preempt|detached, func(ctx context.Context, x *machine) error {
		if x.rec.State == api.StateStopped {
			return nil
		}
		return m.stop(ctx, x, cmp.Or(timeout, m.config.StopTimeout))
	})
	if err != nil {
		return api.Machine{}, fmt.Errorf("stop machine %s: %w", rec.Name, err)
	}
	return m.lastSeen(ctx, rec)
}

// lastSeen returns a VM after it stopped; one that removes itself then is shown as it was.
func (m *Manager) lastSeen(ctx context.Context, rec store.VM) (api.Machine, error) {
	v, err := m.VM(ctx, rec.ID)
	if api.CodeOf(err) == api.CodeNotFound && rec.AutoRemove {
		rec.State, rec.VMMPID = api.StateStopped, 0
		return m.describe(rec), nil
	}
	return v, err
}

// stop is the operation itself. It ends early when a kill takes its place.
func (m *Manager) stop(ctx context.Context, x *machine, timeout time.Duration) error {
	e := ending{reason: "stopped"}
	steps := []step{
		{name: "note stop", note: true, do: func(ctx context.Context) error {
			defer m.stateChanged()
			return m.store.SetState(ctx, x.rec.ID, api.StateStopping, "")
		}},
		{name: "shut down guest", do: func(ctx context.Context) error {
			running := m.vmms.of(x.rec.ID)
			if running == nil || shutDown(ctx, running, timeout) {
				return nil
			}
			e.reason = fmt.Sprintf("killed: the guest did not shut down within %s", timeout)
			return context.Cause(ctx) // another operation ends the VM its own way
		}},
	}
	return m.endBy(ctx, flow{name: "stop", steps: append(steps, m.endSteps(x, &e)...)}, x, &e)
}

// shutDown asks the guest to end, then tells it to, and reports whether its VMM ended.
func shutDown(ctx context.Context, r *runningVMM, timeout time.Duration) bool {
	return endGuest(ctx, r, "shut down guest", false, timeout) || endGuest(ctx, r, "reset guest", true, forceTimeout)
}

// endGuest has the agent end the VM, after a sync in any case, and reports whether the VMM ended
// within the time. An agent may die before its answer is out, so an error alone proves nothing.
func endGuest(ctx context.Context, r *runningVMM, stageName string, force bool, within time.Duration) bool {
	stage := progress.Start(ctx, stageName)
	asked, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	began := time.Now()
	if err := r.agent.Shutdown(asked, force); err != nil {
		within = min(within, lastAnswerTimeout)
	} else {
		within -= time.Since(began)
	}
	if ended(ctx, r, within) {
		stage.End(nil)
		return true
	}
	stage.End(errors.New("the guest did not end"))
	return false
}

// ended reports whether the VMM ended within the time.
func ended(ctx context.Context, r *runningVMM, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-r.process.Done():
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// Restart is Stop, then Start.
func (m *Manager) Restart(ctx context.Context, ref string, stopTimeout, bootTimeout time.Duration) (api.Machine, error) {
	v, err := m.Stop(ctx, ref, stopTimeout)
	if err != nil {
		return v, err
	}
	if v.AutoRemove {
		return v, api.Errorf(api.CodeConflict, "machine %s was removed when it stopped, as it was created to be", v.Name)
	}
	return m.Start(ctx, v.ID, bootTimeout)
}

// Kill sends a signal to a VM's VMM. For a signal that ends the VMM it returns when the VM is
// stopped; whatever is under way on the VM is cancelled.
func (m *Manager) Kill(ctx context.Context, ref string, signal unix.Signal) (api.Machine, error) {
	rec, err := m.store.VM(ctx, ref)
	if err != nil {
		return api.Machine{}, err
	}
	if signal != unix.SIGKILL && signal != unix.SIGTERM {
		running := m.vmms.of(rec.ID)
		if running == nil {
			return api.Machine{}, notRunning(rec)
		}
		return m.describe(rec), running.process.Signal(signal)
	}
	err = m.change(ctx, rec.ID, "kill", preempt|detached, func(ctx context.Context, x *machine) error {
		switch {
		case x.rec.State != api.StateStopped:
			return m.end(ctx, "kill", x, ending{reason: "killed"})
		case rec.State == api.StateStopped:
			return notRunning(*x.rec)
		}
		return nil // what this kill cancelled has ended the VM
	})
	if err != nil {
		return api.Machine{}, fmt.Errorf("kill machine %s: %w", rec.Name, err)
	}
	return m.lastSeen(ctx, rec)
}
