package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/ssh"
)

// hangUpTimeout is how long sshd may take to end a session after ssh has gone, before it is killed.
const hangUpTimeout = 10 * time.Second

func (a *app) sshCommand() *cobra.Command {
	var login string
	var forwardAgent, newHostKey bool
	cmd := &cobra.Command{
		Use:   "ssh [flags] NAME [-- ARGUMENT...]",
		Short: "Open an ssh session in a running machine",
		Long: `Open an ssh session in a running machine, with this host's ssh program. The connection goes through the agent, so it
needs no network, no route and no sshd that listens, and works before the machine has booted. What follows -- goes to
ssh behind the machine's name: options and a command. The exit code is ssh's, which is the command's.

For ssh NAME.vm, scp, rsync, git and editors there is: banger ssh-config`,
		Example: `  banger ssh web
  banger ssh web -- uptime
  banger ssh web -- -L 8080:localhost:80 -N
  banger ssh -A web -- ssh other.vm uptime    # on to another machine`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeOneVM,
		RunE: func(cmd *cobra.Command, given []string) error {
			vm, err := a.client.Machine(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			if vm.State != api.StateRunning {
				return api.Errorf(api.CodeConflict, "machine %s is %s", vm.Name, vm.State).WithHint("start it: banger start %s", vm.Name)
			}
			if newHostKey {
				if _, err := a.client.PrepareSSH(cmd.Context(), api.PrepareSSH{Machine: vm.ID, NewHostKey: true}); err != nil {
					return err
				}
			}
			argv, err := a.sshArguments(vm)
			if err != nil {
				return err
			}
			argv = append(argv, "-l", login)
			if forwardAgent {
				argv = append(argv, "-A", "-o", "AddKeysToAgent=yes")
			}
			rest := given[1:]
			if len(rest) > 0 && rest[0] == "--" { // cobra leaves it when it follows NAME
				rest = rest[1:]
			}
			argv = append(append(argv, vm.Name+".vm"), rest...)
			if forwardAgent && !ssh.AgentAnswers(cmd.Context(), os.Getenv(ssh.AgentVariable)) {
				return a.runSSHWithAgent(argv)
			}
			return a.runSSH(argv)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows NAME is ssh's, also without --
	flags.StringVarP(&login, "login", "l", "root", "user to log in as")
	flags.BoolVarP(
		&forwardAgent,
		"forward-agent",
		"A",
		false,
		"lend the machine an ssh agent with the key that all machines let in: this host's, or one of its own where none runs",
	)
	flags.BoolVar(&newHostKey, "new-host-key", false, "take the machine's host key as it is now, also when it has changed")
	return cmd
}

// sshArguments are the options for one VM. Its host key stands under its id too, so it is that of
// this very VM.
func (a *app) sshArguments(vm api.Machine) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find banger itself: %w", err)
	}
	dir := ssh.HomeDir(a.config.Home)
	if _, err := dir.EnsureKey(); err != nil { // ssh reads it while the daemon prepares the VM
		return nil, err
	}
	options, err := dir.Options(a.config.Home, self, vm.ID)
	if err != nil {
		return nil, err
	}
	argv := []string{"-o", "HostKeyAlias=" + ssh.Alias(vm.ID)}
	for _, o := range options {
		if o[0] != "User" { // the flag --login says that
			argv = append(argv, "-o", o[0]+"="+o[1])
		}
	}
	return argv, nil
}

// runSSHWithAgent is runSSH with an agent of its own.
func (a *app) runSSHWithAgent(argv []string) (err error) {
	socket, end, err := ssh.HomeDir(a.config.Home).ServeAgent()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	return a.runSSH(argv, ssh.AgentVariable+"="+socket)
}

// runSSH is ssh for as long as it runs: it gets the terminal, the signals and the last word.
func (a *app) runSSH(argv []string, env ...string) error {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return api.Errorf(api.CodeUnsupported, "find ssh: %w", err).
			WithHint("install it (on Debian: apt-get install openssh-client), or do without: banger shell NAME")
	}
	command := exec.Command(program, argv...) //nolint:noctx // it ends by the signals that it gets
	command.Env = append(os.Environ(), env...)
	command.Stdin, command.Stdout, command.Stderr = a.Stdin, a.Stdout, a.Stderr
	if err := command.Start(); err != nil {
		return fmt.Errorf("start ssh: %w", err)
	}
	restore := a.forwardSignals(func(s os.Signal) {
		if s != syscall.SIGINT && s != syscall.SIGQUIT { // the terminal has sent these to ssh too
			_ = command.Process.Signal(s) // it may have ended
		}
	})
	defer restore()
	err = command.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return exitCode(128 + int(status.Signal()))
		}
		return exitCode(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("run ssh: %w", err)
	}
	return nil
}

func (a *app) sshProxyCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ssh-proxy NAME[.vm]",
		Short:   "Be the ProxyCommand of an ssh to a machine",
		Example: "  ssh -o ProxyCommand='banger ssh-proxy %h' web.vm",
		Hidden:  true,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			name := strings.TrimSuffix(given[0], ".vm")
			prepared, err := a.client.PrepareSSH(cmd.Context(), api.PrepareSSH{Machine: name})
			if err != nil {
				return err
			}
			return a.proxy(cmd.Context(), name, prepared.Command)
		},
	}
}

// proxy carries ssh's connection. When ssh ends it closes our input, and mostly sends SIGHUP: then
// sshd gets the time to end its session in order.
func (a *app) proxy(ctx context.Context, name string, argv []string) error {
	conn, err := a.client.Exec(ctx, api.Exec{Machine: name, Argv: argv, Dir: "/", Stdin: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	signal.Ignore(syscall.SIGPIPE) // of the output that ssh reads no more
	a.Stdout = &leftWriter{w: a.Stdout}
	defer a.forwardSignals(func(os.Signal) { time.AfterFunc(hangUpTimeout, func() { conn.Close() }) })()
	credits := make(chan struct{}, api.StdinWindow)
	go a.forwardStdin(conn, credits)
	return a.readFrames(conn, credits)
}

// leftWriter takes what its reader no longer wants.
type leftWriter struct {
	w    io.Writer
	left bool
}

func (l *leftWriter) Write(p []byte) (int, error) {
	if !l.left {
		if _, err := l.w.Write(p); err != nil {
			l.left = true
		}
	}
	return len(p), nil
}
