package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	sshdPath     = "/usr/sbin/sshd"
	nativeRounds = 20 // of connectMany, which takes well below a second here
)

// addNative measures connections once more without a VM, where the agent and sshd are processes of
// this host: an emulated guest's own part of a connection takes longer than all that forwards it.
func (b *bench) addNative(ctx context.Context, r *result) (err error) {
	if _, err := os.Stat(sshdPath); err != nil {
		r.Note += "; not without a machine, because there is no " + sshdPath
		return nil
	}
	dir, err := os.MkdirTemp("", "bn-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	program, socket := filepath.Join(dir, "nativeforward"), filepath.Join(dir, "agent")
	key, hostKey := filepath.Join(dir, "key"), filepath.Join(dir, "host")
	built := command(ctx, "go", "build", "-o", program, "banger/bench/nativeforward")
	if err := errors.Join(built, makeKey(ctx, key), makeKey(ctx, hostKey)); err != nil {
		return err
	}
	var parts processes
	defer parts.end()
	service, err := parts.startAt(ctx, program, "service")
	if err != nil {
		return err
	}
	if _, err := parts.start(ctx, program, "agent", socket); err != nil {
		return err
	}
	forward, err := parts.startAt(ctx, program, "forward", socket, fmt.Sprint(service.Port()))
	if err != nil {
		return err
	}
	server, err := freePort(ctx)
	if err != nil {
		return err
	}
	if _,
		err := parts.start(ctx, sshdPath, "-D", "-e", "-f", "/dev/null", "-h", hostKey,
		"-o", "ListenAddress="+server.String(), "-o", "AuthorizedKeysFile="+key+".pub",
		"-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PidFile=none", "-o", "LogLevel=ERROR"); err != nil {
		return err
	}
	tunnel, err := parts.startTunnel(ctx, key, server, service)
	if err != nil {
		return err
	}
	var contenders []contender
	for _, way := range []struct {
		name string
		at   netip.AddrPort
	}{{"banger forward", forward}, {"ssh -L", tunnel}, {"directly", service}} {
		contenders = append(
			contenders,
			timed("connections without a machine, "+way.name, func(ctx context.Context) error { return connectMany(ctx, way.at.String()) }),
		)
	}
	took, err := interleave(ctx, 1, nativeRounds, streamTimeout, contenders...)
	if err != nil {
		return err
	}
	r.Series = append(r.Series, took...)
	r.Ratios = append(r.Ratios, ratio{"connections without a machine: time by ssh's", took[0].Median / took[1].Median, 1. / 3})
	return nil
}

// processes are the parts of a measurement, which end together.
type processes []*exec.Cmd

func (p *processes) end() {
	for _, part := range *p {
		_ = part.Process.Kill() // it may have ended
		_ = part.Wait()
	}
}

// start returns the output.
func (p *processes) start(ctx context.Context, args ...string) (io.Reader, error) {
	part := exec.CommandContext(ctx, args[0], args[1:]...)
	part.Stderr = os.Stderr
	out, err := part.StdoutPipe()
	if err == nil {
		err = part.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	*p = append(*p, part)
	return out, nil
}

// startAt starts a program that prints its address.
func (p *processes) startAt(ctx context.Context, args ...string) (at netip.AddrPort, err error) {
	out, err := p.start(ctx, args...)
	if err != nil {
		return at, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return at, fmt.Errorf("read the address of %s: %w", args[0], err)
	}
	return netip.ParseAddrPort(strings.TrimSpace(line))
}

// startTunnel starts ssh -L to a service beside the server, and returns its address when it
// answers.
func (p *processes) startTunnel(ctx context.Context, key string, server, service netip.AddrPort) (at netip.AddrPort, err error) {
	if at, err = freePort(ctx); err != nil {
		return at, err
	}
	_, err = p.start(
		ctx,
		"ssh",
		"-N",
		"-F",
		"/dev/null",
		"-i",
		key,
		"-o",
		"StrictHostKeyChecking=no",
		"-o",
		"UserKnownHostsFile=/dev/null",
		"-o",
		"LogLevel=ERROR",
		"-o",
		"ExitOnForwardFailure=yes",
		"-o",
		"ConnectionAttempts=10",
		"-p",
		fmt.Sprint(server.Port()),
		"-L",
		fmt.Sprintf("%s:%s", at, service),
		"root@"+server.Addr().String(),
	)
	if err == nil {
		err = await(ctx, at)
	}
	return at, err
}

func makeKey(ctx context.Context, path string) error {
	return command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
}
