package daemon

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/build"
	"banger/internal/disk"
	"banger/internal/host"
)

func (s *Server) status(r *http.Request) (api.DaemonStatus, error) {
	id, err := build.ID()
	if err != nil {
		return api.DaemonStatus{}, err
	}
	all, running, err := s.store.CountVMs(r.Context())
	if err != nil {
		return api.DaemonStatus{}, err
	}
	rss, err := host.ProcessRSSBytes(os.Getpid())
	if err != nil {
		return api.DaemonStatus{}, err
	}
	return api.DaemonStatus{
		Version: build.Version(), Build: id, API: api.Version, PID: os.Getpid(), Home: s.config.Home, Socket: SocketPath(s.config.Home),
		UptimeMS: time.Since(s.began).Milliseconds(), VMs: all, RunningVMs: running, RSSBytes: rss,
	}, nil
}

// stopDaemon answers once another daemon can take over.
func (s *Server) stopDaemon(w http.ResponseWriter, r *http.Request) {
	body, err := decode[api.StopDaemon](r)
	if err != nil {
		fail(w, err)
		return
	}
	if body.PurgeNetwork {
		if err := s.vms.PurgeNetwork(r.Context()); err != nil {
			fail(w, err)
			return
		}
	}
	stop := stopRequest{drain: body.Drain, released: make(chan struct{})}
	select {
	case s.stops <- stop:
	case <-r.Context().Done():
		return
	}
	<-stop.released
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) doctor(r *http.Request) ([]api.Check, error) {
	checks := host.Doctor(r.Context(), s.config, s.tools, s.anyKernel(r.Context()))
	return append(checks, s.vms.CheckNetwork(r.Context())), nil
}

func (s *Server) listVMs(r *http.Request) ([]api.VM, error) { return s.vms.VMs(r.Context()) }

func (s *Server) inspectVM(r *http.Request) (api.VM, error) {
	return s.vms.VM(r.Context(), r.PathValue("vm"))
}

func (s *Server) createVM(r *http.Request) (api.VM, error) {
	body, err := decode[api.CreateVM](r)
	if err != nil {
		return api.VM{}, err
	}
	return s.vms.Create(r.Context(), body)
}

func (s *Server) startVM(r *http.Request) (api.VM, error) {
	return s.vms.Start(r.Context(), r.PathValue("vm"))
}

func (s *Server) stopVM(r *http.Request) (api.VM, error) {
	timeout, err := stopTimeout(r)
	if err != nil {
		return api.VM{}, err
	}
	return s.vms.Stop(r.Context(), r.PathValue("vm"), timeout)
}

func (s *Server) restartVM(r *http.Request) (api.VM, error) {
	timeout, err := stopTimeout(r)
	if err != nil {
		return api.VM{}, err
	}
	return s.vms.Restart(r.Context(), r.PathValue("vm"), timeout)
}

func stopTimeout(r *http.Request) (time.Duration, error) {
	body, err := decode[api.StopVM](r)
	if err == nil && body.TimeoutMS < 0 {
		err = api.Errorf(api.CodeInvalid, "a timeout of %d ms", body.TimeoutMS)
	}
	return time.Duration(body.TimeoutMS) * time.Millisecond, err
}

func (s *Server) killVM(r *http.Request) (api.VM, error) {
	body, err := decode[api.KillVM](r)
	if err != nil {
		return api.VM{}, err
	}
	signal, err := parseSignal(body.Signal)
	if err != nil {
		return api.VM{}, err
	}
	return s.vms.Kill(r.Context(), r.PathValue("vm"), signal)
}

// parseSignal reads "KILL", "SIGKILL" or "9"; empty is KILL.
func parseSignal(text string) (unix.Signal, error) {
	if text == "" {
		return unix.SIGKILL, nil
	}
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if signal := unix.SignalNum(name); signal != 0 {
		return signal, nil
	}
	return 0, api.Errorf(api.CodeInvalid, "unknown signal %q", text).WithHint("give a name such as TERM, or a number from 1 to 64")
}

func (s *Server) setNAT(r *http.Request) (api.VM, error) {
	body, err := decode[api.SetNAT](r)
	if err != nil {
		return api.VM{}, err
	}
	return s.vms.SetNAT(r.Context(), r.PathValue("vm"), body.On)
}

func (s *Server) setHostServices(r *http.Request) (api.VM, error) {
	body, err := decode[api.SetHostServices](r)
	if err != nil {
		return api.VM{}, err
	}
	return s.vms.SetHostServices(r.Context(), r.PathValue("vm"), body.Ports)
}

func (s *Server) prepareSSH(r *http.Request) (api.SSH, error) {
	body, err := decode[api.PrepareSSH](r)
	if err != nil {
		return api.SSH{}, err
	}
	return s.vms.PrepareSSH(r.Context(), r.PathValue("vm"), body.NewHostKey)
}

func (s *Server) removeVM(r *http.Request) (struct{}, error) {
	force, err := queryBool(r, "force")
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.vms.Remove(r.Context(), r.PathValue("vm"), force)
}

// leaseVM answers at once and then holds the request open: its end is the lease's end.
func (s *Server) leaseVM(w http.ResponseWriter, r *http.Request) {
	answered := false
	held := func() {
		answered = true
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // a client that is gone ends the context
	}
	elsewhere := func(ctx context.Context, id string) error {
		client := api.NewClient(SocketPath(s.config.Home))
		defer client.CloseIdle()
		return client.RemoveVM(ctx, id, true)
	}
	err := s.vms.Lease(r.Context(), r.PathValue("vm"), held, elsewhere)
	switch {
	case err == nil:
	case answered:
		_ = note(w, err) // for the log: the client is gone
	default:
		fail(w, err)
	}
}

func (s *Server) waitVM(r *http.Request) (api.VM, error) {
	return s.vms.Wait(r.Context(), r.PathValue("vm"), api.WaitFor(r.URL.Query().Get("for")))
}

func (s *Server) statsVM(r *http.Request) (api.Stats, error) {
	agent, v, err := s.vms.Agent(r.Context(), r.PathValue("vm"))
	if err != nil {
		return api.Stats{}, err
	}
	got, err := agent.Stats(r.Context())
	if err != nil {
		return api.Stats{}, err
	}
	stats := api.Stats{
		Name: v.Name, ID: v.ID, CPUs: v.CPUs, Load1: got.Load1, GuestCPUMS: got.CPUBusy.Milliseconds(),
		MemoryTotalBytes: got.MemoryTotalBytes, MemoryUsedBytes: got.MemoryTotalBytes - got.MemoryAvailableBytes,
		DiskTotalBytes: got.DiskTotalBytes, DiskUsedBytes: got.DiskTotalBytes - got.DiskAvailableBytes, Processes: got.Processes, At: time.Now(),
	}
	if stats.HostDiskBytes, err = usedBytes(s.vms.Dir(v.ID).Disk()); err != nil {
		return stats, err
	}
	if v.VMM != nil {
		stats.HostMemoryBytes, err = host.TreeRSSBytes(v.VMM.PID)
	}
	return stats, err
}

// usedBytes returns what a sparse file takes.
func usedBytes(path string) (int64, error) {
	usage, err := disk.UsageOf(path)
	return usage.AllocatedBytes, err
}
