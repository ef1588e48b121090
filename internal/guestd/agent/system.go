package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"banger/internal/guestd/procfs"
	"banger/internal/guestd/system"
	agentv1 "banger/proto/agent/v1"
)

// Health answers from what is known already, and reads one small file.
func (s *Server) Health(context.Context, *agentv1.HealthRequest) (*agentv1.HealthResponse, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("ask kernel for its name: %w", err)
	}
	h := &agentv1.HealthResponse{
		Protocol:     agentv1.Protocol,
		Build:        s.config.Build,
		Init:         s.config.Record.Init,
		Booted:       s.booted.isDone(),
		Hostname:     unix.ByteSliceToString(uts.Nodename[:]),
		Kernel:       unix.ByteSliceToString(uts.Release[:]),
		Distribution: distribution(s.config.Root),
		UptimeMs:     uint64(system.Uptime().Milliseconds()),
	}
	for _, stage := range s.config.Record.Stages {
		h.Stages = append(h.Stages, &agentv1.BootStage{
			Name: stage.Name, StartUs: uint64(stage.Start.Microseconds()), DurationUs: uint64(stage.Duration.Microseconds()),
		})
	}
	return h, nil
}

// distribution is PRETTY_NAME of os-release(5), whose values are quoted as a shell's.
func distribution(root string) string {
	for _, path := range []string{"etc/os-release", "usr/lib/os-release"} {
		b, err := os.ReadFile(filepath.Join(root, path))
		if err == nil {
			return prettyName(b)
		}
	}
	return ""
}

func prettyName(osRelease []byte) string {
	for line := range bytes.Lines(osRelease) {
		value, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "PRETTY_NAME=")
		if !ok {
			continue
		}
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		return strings.ToValidUTF8(strings.Trim(value[:min(len(value), 200)], "'\""), "")
	}
	return ""
}

// Stats tells how busy the guest is.
func (s *Server) Stats(context.Context, *agentv1.StatsRequest) (*agentv1.StatsResponse, error) {
	cpu, err := procfs.ReadCPU("/proc")
	if err != nil {
		return nil, err
	}
	memory, err := procfs.ReadMemory("/proc")
	if err != nil {
		return nil, err
	}
	load, err := procfs.ReadLoad("/proc")
	if err != nil {
		return nil, err
	}
	pids, err := procfs.PIDs("/proc")
	if err != nil {
		return nil, err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(s.config.Root, &disk); err != nil {
		return nil, fmt.Errorf("read size of root: %w", err)
	}
	return &agentv1.StatsResponse{
		Cpus: uint32(cpu.Count), CpuBusyMs: cpu.BusyMS, CpuTotalMs: cpu.TotalMS,
		Load_1: load[0], Load_5: load[1], Load_15: load[2],
		MemoryTotalBytes: memory.Total, MemoryAvailableBytes: memory.Available,
		DiskTotalBytes: disk.Blocks * uint64(disk.Bsize), DiskAvailableBytes: disk.Bavail * uint64(disk.Bsize),
		Processes: uint32(len(pids)),
	}, nil
}

// Ports lists what listens.
func (s *Server) Ports(context.Context, *agentv1.PortsRequest) (*agentv1.PortsResponse, error) {
	ports, err := procfs.Ports("/proc", agentv1.MaxPorts)
	if err != nil {
		return nil, err
	}
	answer := &agentv1.PortsResponse{}
	for _, p := range ports {
		answer.Ports = append(answer.Ports, &agentv1.ListeningPort{
			Network: p.Network, Address: p.Address.Addr().String(), Port: uint32(p.Address.Port()),
			Pid: uint32(p.PID), Process: strings.ToValidUTF8(p.Process, "?"),
		})
	}
	return answer, nil
}

// Sync writes what is dirty to the disks.
func (s *Server) Sync(context.Context, *agentv1.SyncRequest) (*agentv1.SyncResponse, error) {
	unix.Sync()
	return &agentv1.SyncResponse{}, nil
}

// SetTime sets the wall clock.
func (s *Server) SetTime(_ context.Context, r *agentv1.SetTimeRequest) (*agentv1.SetTimeResponse, error) {
	if r.UnixNanoseconds <= 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("set time: not after 1970"))
	}
	t := unix.NsecToTimespec(r.UnixNanoseconds)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &t); err != nil {
		return nil, fmt.Errorf("set time: %w", err)
	}
	return &agentv1.SetTimeResponse{}, nil
}

// AddEntropy gives the kernel bytes nobody else knows, and has it use them at once: random(4),
// RNDADDENTROPY.
func (s *Server) AddEntropy(_ context.Context, r *agentv1.AddEntropyRequest) (*agentv1.AddEntropyResponse, error) {
	if len(r.Data) == 0 || len(r.Data) > agentv1.MaxEntropyBytes {
		err := fmt.Errorf("add entropy: want 1 to %d bytes", agentv1.MaxEntropyBytes)
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pool := poolInfo(r.Data)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool[0])))
	if errno != 0 {
		return nil, fmt.Errorf("add entropy: %w", errno)
	}
	const reseed = 0x5207 // RNDRESEEDCRNG of linux/random.h
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), reseed, 0); errno != 0 {
		return nil, fmt.Errorf("reseed random numbers: %w", errno)
	}
	return &agentv1.AddEntropyResponse{}, nil
}

// poolInfo is struct rand_pool_info of linux/random.h: int entropy_count in bits, int buf_size in
// bytes, the bytes.
func poolInfo(data []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(len(data)*8))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}
