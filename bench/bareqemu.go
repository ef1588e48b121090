package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/vsockmux"
)

// bareQEMU is a QEMU as one starts it by hand: nothing watches it, and the guest's serial port is a
// socket here.
type bareQEMU struct {
	cmd    *exec.Cmd
	ended  chan struct{} // closed when it has ended: stderr is complete and listen closed
	stderr bytes.Buffer
	port   net.Conn // set by connect
	lines  *bufio.Reader
	listen net.Listener
}

// startBare runs QEMU with the machine's model, kernel and drives, and its own files in dir. The
// guest finds the port by banger's name for it.
func startBare(ctx context.Context, m machine, initrd, bootArgs, dir string) (*bareQEMU, error) {
	socket := filepath.Join(dir, "port")
	listen, err := new(net.ListenConfig).Listen(ctx, "unix", socket) // removes its file when it closes
	if err != nil {
		return nil, fmt.Errorf("listen for the serial port: %w", err)
	}
	q := &bareQEMU{ended: make(chan struct{}), listen: listen}
	q.cmd = exec.CommandContext(ctx, m.binary, bareArgs(m, initrd, bootArgs, socket, filepath.Join(dir, "console"))...)
	q.cmd.Stderr = &q.stderr
	if err := q.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start QEMU: %w", err), listen.Close())
	}
	go func() {
		_ = q.cmd.Wait() // close kills it, and who waits for the port learns its end
		_ = listen.Close()
		close(q.ended)
	}()
	return q, nil
}

func bareArgs(m machine, initrd, bootArgs, socket, console string) []string {
	args := append([]string{}, m.model...)
	args = append(args, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-global", "virtio-mmio.force-legacy=false",
		"-kernel", m.BootSource.Kernel, "-initrd", initrd, "-append", bootArgs, "-serial", "file:"+console)
	for _, d := range m.Drives {
		readOnly := "off"
		if d.ReadOnly {
			readOnly = "on"
		}
		args = append(
			args,
			"-drive",
			fmt.Sprintf("if=none,id=%s,format=raw,file=%s,readonly=%s", d.ID, d.Path, readOnly),
			"-device",
			"virtio-blk-device,drive="+d.ID,
		)
	}
	return append(
		args,
		"-chardev",
		"socket,id=port,path="+socket,
		"-device",
		"virtio-serial-device",
		"-device",
		"virtserialport,chardev=port,name="+vsockmux.PortName,
	)
}

// firstByte waits until a program in the guest has written to the port.
func (q *bareQEMU) firstByte(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = q.listen.Close() })
	port, err := q.listen.Accept()
	stop()
	if err == nil {
		q.port, q.lines = port, bufio.NewReader(port)
		stop := context.AfterFunc(ctx, func() { _ = port.SetReadDeadline(time.Unix(0, 1)) })
		_, err = q.lines.Peek(1)
		stop()
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("wait for the guest's first byte: %w", context.Cause(ctx))
	}
	q.kill()
	return fmt.Errorf("QEMU ended before the guest spoke: %s", bytes.TrimSpace(q.stderr.Bytes()))
}

// ask writes a line to the guest and waits for one.
func (q *bareQEMU) ask(ctx context.Context, line string) (string, error) {
	if _, err := q.port.Write([]byte(line + "\n")); err != nil {
		return "", fmt.Errorf("write to serial port: %w", err)
	}
	return q.readLine(ctx)
}

func (q *bareQEMU) readLine(ctx context.Context) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = q.port.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	line, err := q.lines.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read from serial port: %w", err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// kill ends QEMU and waits for it.
func (q *bareQEMU) kill() {
	_ = q.cmd.Process.Kill() // it may have ended
	<-q.ended
	if q.port != nil {
		q.port.Close()
	}
}
