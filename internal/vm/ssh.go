package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/ssh"
)

// prepareTimeout is how long a guest may take to get ready for ssh; under emulation, with fifty
// others, the first time takes seconds.
const prepareTimeout = time.Minute

// authorizeKey puts the owner's key where the listening sshd of banger's own images looks for it,
// so that VMs let each other in when the owner forwards an ssh agent.
func (s *starting) authorizeKey(ctx context.Context) error {
	key, err := s.host.hostKeys.ssh.EnsureKey()
	if err != nil {
		return err
	}
	folder, name, _ := strings.Cut(ssh.AuthorizedName, "/")
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	text := []byte(key + "\n")
	err = errors.Join(
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755, ModTime: time.Now()}),
		w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: folder + "/" + name, Mode: 0o644, Size: int64(len(text)), ModTime: time.Now(),
		}),
	)
	if err == nil {
		_, err = w.Write(text)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	return s.agent().WriteTar(ctx, ssh.RunDir, &file)
}

// PrepareSSH makes a running VM ready for one ssh connection. The first time it pins the VM's host
// key, which it has through the agent; later another key is refused, unless newHostKey asks for it
// to be taken.
func (m *Manager) PrepareSSH(ctx context.Context, ref string, newHostKey bool) (api.SSH, error) {
	agent, v, err := m.Agent(ctx, ref)
	if err != nil {
		return api.SSH{}, err
	}
	owner, err := m.hostKeys.ssh.EnsureKey()
	if err != nil {
		return api.SSH{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, prepareTimeout,
		api.Errorf(api.CodeTimeout, "machine %s was not ready for ssh within %s", v.Name, prepareTimeout).
			WithRemedy(api.OpLogs.Remedy(api.Logs{Machine: v.Name}, "look at its console")))
	defer cancel()
	prepared, err := prepareGuest(ctx, agent, v.Name, owner)
	if err != nil {
		return api.SSH{}, err
	}
	health, err := agent.Health(ctx)
	if err != nil {
		return api.SSH{}, err
	}
	if err := m.hostKeys.pin(ctx, v.ID, prepared.HostKey, newHostKey); err != nil {
		return api.SSH{}, err
	}
	return api.SSH{
		Command: ssh.ServeCommand(prepared.Server, health.Init == "systemd" && !health.Booted),
		HostKey: prepared.HostKey, Alias: ssh.Alias(v.ID),
		KnownHosts: m.hostKeys.ssh.KnownHosts(), Key: m.hostKeys.ssh.Key(),
	}, nil
}

func prepareGuest(ctx context.Context, agent *guest.Client, name, owner string) (ssh.Prepared, error) {
	printed, said, exit, err := output(ctx, agent, ssh.PrepareCommand(owner))
	switch {
	case err != nil && context.Cause(ctx) != nil:
		return ssh.Prepared{}, context.Cause(ctx)
	case err != nil:
		return ssh.Prepared{}, fmt.Errorf("prepare machine %s for ssh: %w", name, err)
	case exit.Code == ssh.NoServer:
		return ssh.Prepared{}, api.Errorf(api.CodeUnsupported, "the image of machine %s has no sshd", name).
			WithRemedy(api.OpExec.Remedy(api.Exec{Machine: name, Argv: strings.Fields("apt-get install -y openssh-server")},
				"install it, for example on Debian")).
			WithRemedy(api.OpExec.Remedy(api.Exec{Machine: name}, "or do without"))
	case exit.Code != 0:
		why := strings.TrimSpace(string(said) + exit.Error)
		return ssh.Prepared{}, api.Errorf(api.CodeUnavailable, "prepare machine %s for ssh: exit status %d: %.300q",
			name, exit.Code, why).
			WithRemedy(api.OpExec.Remedy(api.Exec{Machine: name}, "without ssh there is"))
	}
	prepared, err := ssh.ParsePrepared(printed)
	if err != nil {
		return ssh.Prepared{}, fmt.Errorf("prepare machine %s for ssh: %w", name, err)
	}
	return prepared, nil
}

// output runs a command in a guest and returns what it wrote; one that writes more than fits is cut
// off.
func output(
	ctx context.Context, agent *guest.Client, argv []string,
) (stdout, stderr []byte, exit guest.Exit, err error) {
	command, err := agent.Exec(ctx, guest.ExecSpec{Argv: argv, Dir: "/", NoStdin: true})
	if err != nil {
		return nil, nil, guest.Exit{}, err
	}
	defer command.Close()
	for {
		event, err := command.Recv()
		if err != nil {
			return nil, nil, guest.Exit{}, err
		}
		stdout, stderr = append(stdout, event.Stdout...), append(stderr, event.Stderr...)
		switch {
		case event.Exit != nil:
			return stdout, stderr, *event.Exit, nil
		case len(stdout)+len(stderr) > ssh.MaxPreparedBytes:
			return nil, nil, guest.Exit{}, fmt.Errorf("the guest wrote more than %d bytes: %w",
				ssh.MaxPreparedBytes, io.ErrShortBuffer)
		}
	}
}
