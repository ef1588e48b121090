package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger/api"
	"banger/internal/guest"
)

const (
	// truePath is the program of the image that is run, with its path: looking for it is not
	// measured.
	truePath    = "/bin/true"
	execTimeout = 10 * time.Second
	execWarmUp  = 20 // TCG translates code when it first runs
	shellLoops  = 100
)

// measureExec compares an exec by the API, on a booted VM at rest, with fork and exec of the same
// program asked for over a raw serial port. The other series split the time: what the agent's
// transport costs, what the daemon adds, what the guest's kernel takes by itself.
func (b *bench) measureExec(ctx context.Context) (_ result, err error) {
	r := result{
		Note: "exec of " + truePath + " in a booted machine; fork and exec of it in a bare machine, asked for by a line on its serial port",
	}
	vm, remove, err := b.boot(ctx, api.WaitBooted)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	dir, err := os.MkdirTemp("", "bx-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	raw, err := startSerialGuest(ctx, vm, dir)
	if err != nil {
		return r, err
	}
	defer raw.kill()
	if err := b.waitIdle(ctx, vm.ID); err != nil {
		return r, err
	}
	agent := guest.New(guest.DialVsock(filepath.Join(vm.Dir, "vsock.sock"), guest.Port))
	defer func() { err = errors.Join(err, agent.Close()) }()
	r.Series, err = interleave(ctx, execWarmUp, b.execs, execTimeout,
		timed("exec by the API", func(ctx context.Context) error { return b.runIn(ctx, vm.ID, nil, io.Discard, truePath) }),
		timed("fork+exec by raw serial port", func(ctx context.Context) error { return raw.run(ctx, truePath) }),
		timed("  split: raw serial port, empty question", func(ctx context.Context) error { return raw.run(ctx, "") }),
		timed("  split: Health of the agent, no daemon", func(ctx context.Context) error {
			_, err := agent.Health(ctx)
			return err
		}),
		timed("  split: exec by the agent, no daemon", func(ctx context.Context) error { return agentTrue(ctx, agent) }),
	)
	if err != nil {
		return r, err
	}
	exec, serial := r.Series[0], r.Series[1]
	r.Ratios = []ratio{
		{"p50 over raw serial port", exec.Median / serial.Median, 1.5},
		{"p99 over raw serial port", exec.P99 / serial.P99, 1.5},
	}
	command, err := interleave(
		ctx,
		1,
		b.commands,
		execTimeout,
		timed(
			"banger exec machine -- true, whole process",
			func(ctx context.Context) error { return b.banger(ctx, "exec", vm.ID, "--", truePath) },
		),
		contender{
			"fork+exec by a shell in the machine",
			func(ctx context.Context) (time.Duration, error) { return b.shellForks(ctx, vm.ID) },
		},
	)
	r.Series = append(r.Series, command...)
	return r, err
}

// startSerialGuest boots the bare VM with the image and the modules of a running one.
func startSerialGuest(ctx context.Context, vm api.Machine, dir string) (*bareQEMU, error) {
	m, err := machineOf(ctx, vm)
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(dir, "initrd.cpio")
	if err := makeInitrd(ctx, filepath.Dir(m.BootSource.Kernel), initrd); err != nil {
		return nil, err
	}
	m.Drives = slices.DeleteFunc(m.Drives, func(d drive) bool { return d.ID != "image" })
	raw, err := startBare(ctx, m, initrd, m.bootArgs, dir)
	if err != nil {
		return nil, err
	}
	booting, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err = raw.firstByte(booting); err == nil {
		_, err = raw.readLine(booting) // "ready"
	}
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(dir, "console")) // adorns the error
		raw.kill()
		return nil, fmt.Errorf("boot the bare machine: %w\n%s", err, console)
	}
	return raw, nil
}

// run has the guest of package serialguest run a program, or just answer.
func (q *bareQEMU) run(ctx context.Context, path string) error {
	code, err := q.ask(ctx, path)
	if err == nil && code != "0" {
		err = fmt.Errorf("%s ended with %s", path, code)
	}
	return err
}

func agentTrue(ctx context.Context, agent *guest.Client) error {
	command, err := agent.Exec(ctx, guest.ExecSpec{Argv: []string{truePath}, NoStdin: true})
	if err != nil {
		return err
	}
	defer command.Close()
	for {
		event, err := command.Recv()
		switch {
		case err != nil:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		case event.Exit != nil && event.Exit.Code != 0:
			return fmt.Errorf("%s ended with %d", truePath, event.Exit.Code)
		case event.Exit != nil:
			return nil
		}
	}
}

// shellForks is the time that one fork and exec takes in the VM when a shell does many: only the
// first has the way there.
func (b *bench) shellForks(ctx context.Context, vm string) (time.Duration, error) {
	began := time.Now()
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do %s; i=$((i+1)); done", shellLoops, truePath)
	err := b.runIn(ctx, vm, nil, io.Discard, "sh", "-c", script)
	return time.Since(began) / shellLoops, err
}
