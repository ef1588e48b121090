package vm

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/api"
	"banger/internal/network"
	"banger/internal/store"
)

// picture is what the records say of all VMs.
func (h *home) picture() string {
	h.t.Helper()
	recs, err := h.store.VMs(bg)
	if err != nil {
		h.t.Fatal(err)
	}
	var all []string
	for _, r := range recs {
		all = append(all, fmt.Sprintf("%s nat=%v services=%v leased=%v forwards=%d",
			r.State, r.NAT, r.HostServices, r.Leased, len(r.Forwards)))
	}
	return strings.Join(all, "; ")
}

// awaitSettled waits for what goes on behind an answer: a stop that is finished, an end that is
// recorded.
func (h *home) awaitSettled(m *Manager) {
	h.t.Helper()
	patience := time.After(20 * time.Second)
	for {
		next := m.nextChange()
		recs, err := h.store.VMs(bg)
		if err != nil {
			h.t.Fatal(err)
		}
		under := slices.IndexFunc(recs, func(r store.VM) bool {
			running := m.vmms.of(r.ID)
			return r.State != api.StateStopped && (r.State != api.StateRunning || running == nil || !running.alive())
		})
		if under < 0 {
			break
		}
		select {
		case <-next:
		case <-patience:
			h.t.Fatalf("the machine is left %s", recs[under].State)
		}
	}
	m.mu.Lock()
	left := slices.Collect(maps.Values(m.operations))
	m.mu.Unlock()
	for _, op := range left { // its record says that it is done: it is about to end
		select {
		case <-op.done:
		case <-patience:
			h.t.Fatalf("operation %s is left", op.name)
		}
	}
}

// checkAll fails the test unless all that there is on the host belongs to a VM that should have it,
// and is whole.
func (h *home) checkAll(m *Manager) {
	h.t.Helper()
	if m.lan.astray.Load() { // then the daemon tries again
		if err := m.lan.reconcile(bg); err != nil {
			h.t.Error(err)
		}
	}
	recs, err := h.store.VMs(bg)
	if err != nil {
		h.t.Fatal(err)
	}
	ports, folders, vmms := h.networkPorts(), map[string]bool{}, 0
	for _, rec := range recs {
		folders[rec.ID] = true
		h.checkVM(m, rec, ports)
		delete(ports, rec.ID)
		if rec.State == api.StateRunning {
			vmms++
		}
	}
	if len(ports) > 0 {
		h.t.Errorf("left on the network: %v", ports)
	}
	if vmms == 0 && h.networkPorts() != nil {
		h.t.Error("the network is there for nobody")
	}
	entries, _ := os.ReadDir(filepath.Join(h.dir, "vms"))
	for _, e := range entries {
		if !folders[e.Name()] {
			h.t.Errorf("left folder %s", e.Name())
		}
	}
	if got := h.processes(); len(got) != vmms {
		h.t.Errorf("processes of VMMs: %v, want %d", got, vmms)
	}
	if got := len(m.forwards.all()); got > 0 && vmms == 0 {
		h.t.Errorf("%d forwards are open for nobody", got)
	}
}

// checkVM checks one VM against its record.
func (h *home) checkVM(m *Manager, rec store.VM, ports map[string]network.Endpoint) {
	h.t.Helper()
	dir := m.Dir(rec.ID)
	if _, err := os.Stat(dir.Disk()); err != nil {
		h.t.Error(err)
	}
	p, joined := ports[rec.ID]
	for _, f := range rec.Forwards {
		if open := isOpen(f); open != (rec.State == api.StateRunning) {
			h.t.Errorf("forward %s of a %s machine is open: %v", f, rec.State, open)
		}
	}
	if open := len(m.forwards.byVM[rec.ID]); rec.State == api.StateRunning && open != len(rec.Forwards) {
		h.t.Errorf("%d forwards are open, recorded are %d", open, len(rec.Forwards))
	}
	if rec.State == api.StateStopped {
		names := slices.DeleteFunc(left(dir), func(name string) bool { return name == "lease" })
		if !slices.Equal(names, []string{"disk.ext4"}) {
			h.t.Errorf("in the folder of a stopped machine: %v", names)
		}
		h.awaitUnlocked(dir)
		if joined || rec.VMMPID != 0 || m.vmms.of(rec.ID) != nil {
			h.t.Errorf("a stopped machine has: a port %v, pid %d, a known VMM %v",
				joined, rec.VMMPID, m.vmms.of(rec.ID) != nil)
		}
		return
	}
	if rec.State != api.StateRunning {
		h.t.Errorf("left %s", rec.State)
		return
	}
	if lock, err := tryLock(dir.Lock()); lock != nil || err != nil {
		h.t.Errorf("nobody holds the lock of a running machine (%v)", err)
	}
	if !joined || p.NAT != rec.NAT || len(p.HostServices) != len(rec.HostServices) {
		h.t.Errorf("the network has %+v (%v), recorded are nat %v and services %v",
			p, joined, rec.NAT, rec.HostServices)
	}
	agent, _, err := m.Agent(bg, rec.ID)
	if err == nil {
		_, err = agent.Health(bg)
	}
	if err != nil {
		h.t.Errorf("the guest does not answer: %v", err)
	}
}

// processes are the pids of the home's VMMs that live. Each has noted itself.
func (h *home) processes() (pids []string) {
	noted, _ := os.ReadDir(filepath.Join(h.dir, pidsFolder))
	for _, entry := range noted {
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && strings.Contains(string(line), "--api-sock\x00"+h.dir+"/") {
			pids = append(pids, entry.Name())
		}
	}
	return pids
}

// use fails the test unless the VM, if there is one, can be started and removed.
func (h *home) use(m *Manager) {
	h.t.Helper()
	v, err := m.VM(bg, "web")
	if api.CodeOf(err) == api.CodeNotFound {
		return
	}
	if err == nil {
		_, err = m.Start(bg, v.ID, 0)
	}
	if err != nil {
		h.t.Errorf("use: %v", err)
		return
	}
	h.checkAll(m)
	if err := m.Remove(bg, v.ID, true); err != nil {
		h.t.Errorf("use: %v", err)
	}
	h.checkAll(m)
}
