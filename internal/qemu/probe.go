package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/internal/verdict"
)

// A Verdict says how guests run on this host.
type Verdict struct {
	Accel       Accel  `json:"accel"`
	Why         string `json:"why"`
	QEMUVersion string `json:"qemu_version"`
	TSCKHz      int    `json:"tsc_khz"`
}

// The limits of a trial boot: a working guest's first output comes within 0.2 s and its end within
// 1 s.
const (
	trialFirstOutput = 2 * time.Second
	trialEnd         = 5 * time.Second
	trialMemoryMiB   = 256
)

// A Prober finds out, and remembers for as long as the host is up, whether KVM works with a kernel.
type Prober struct {
	Binary   string // QEMU
	CacheDir string // made when missing
	KVMPath  string // /dev/kvm if empty
}

// Probe boots vmlinux under KVM, without initrd, and believes in KVM only when the kernel has
// spoken and ended: /dev/kvm that opens, and even VMs that can be made, prove nothing (nested and
// emulated hosts). Probes may run concurrently, in several processes too.
func (p Prober) Probe(ctx context.Context, vmlinux string) (Verdict, error) {
	version, err := CheckVersion(ctx, p.Binary)
	if err != nil {
		return Verdict{}, err
	}
	kept, err := p.kept(version, vmlinux)
	if err != nil {
		return Verdict{}, err
	}
	if v, ok := kept.Load(); ok && v.valid() {
		return v, nil
	}
	v := Verdict{QEMUVersion: version}
	if v.TSCKHz, err = measureTSC(ctx); err != nil {
		return Verdict{}, fmt.Errorf("measure TSC: %w", err)
	}
	v.Accel, v.Why = p.try(ctx, vmlinux)
	if ctx.Err() != nil {
		return Verdict{}, ctx.Err()
	}
	return v, kept.Store(v)
}

// Forced is the verdict where the user has chosen.
func (p Prober) Forced(ctx context.Context, accel Accel) (Verdict, error) {
	version, err := CheckVersion(ctx, p.Binary)
	if err != nil {
		return Verdict{}, err
	}
	khz, err := measureTSC(ctx)
	if err != nil {
		return Verdict{}, fmt.Errorf("measure TSC: %w", err)
	}
	return Verdict{Accel: accel, Why: "forced", QEMUVersion: version, TSCKHz: khz}, nil
}

// try says which accelerator to use and why.
func (p Prober) try(ctx context.Context, vmlinux string) (Accel, string) {
	device := p.KVMPath
	if device == "" {
		device = "/dev/kvm"
	}
	kvm, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrPermission):
		const repair = "give your user the right to it (group kvm: sudo usermod -aG kvm $USER, then log in again)"
		return TCG, fmt.Sprintf("%v: %s", err, repair)
	case err != nil:
		return TCG, fmt.Sprintf("no KVM: %v", err)
	}
	kvm.Close()
	if err := p.trialBoot(ctx, vmlinux); err != nil {
		why, _, _ := strings.Cut(err.Error(), "\n") // the rest is QEMU's own detail
		return TCG, fmt.Sprintf("%s opens, but a trial boot under KVM did not work: %s", device, why)
	}
	return KVM, "a trial boot of this kernel under KVM worked"
}

func (p Prober) trialBoot(ctx context.Context, vmlinux string) error {
	ctx, cancel := context.WithTimeout(ctx, trialEnd)
	defer cancel()
	console := &watcher{spoke: make(chan struct{})}
	plan := Plan{
		Accel: KVM, VCPUs: 1, MemoryMiB: trialMemoryMiB, Kernel: vmlinux,
		BootArgs: "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1 reboot=t",
	}
	m, err := Start(ctx, p.Binary, plan, nil, "", Stdio{Out: console})
	if err != nil {
		return err
	}
	defer m.Kill()
	if err := m.Continue(ctx); err != nil {
		return err
	}
	first := time.NewTimer(trialFirstOutput)
	defer first.Stop()
	select {
	case <-console.spoke:
	case <-m.Done():
	case <-first.C:
		return fmt.Errorf("the kernel said nothing within %v", trialFirstOutput)
	}
	select {
	case <-m.Done():
	case <-ctx.Done():
		return fmt.Errorf("the guest did not end within %v", trialEnd)
	}
	if err := m.Err(); err != nil {
		return err
	}
	if !strings.Contains(console.String(), "Linux version") {
		return errors.New("the guest ended without a word of the kernel")
	}
	return nil
}

// watcher keeps the beginning of a console and tells of its first byte.
type watcher struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	spoke chan struct{}
}

func (w *watcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf.Len() == 0 && len(b) > 0 {
		close(w.spoke)
	}
	const enough = 64 << 10
	if w.buf.Len() < enough {
		w.buf.Write(b)
	}
	return len(b), nil
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// valid reports whether a kept verdict can be believed.
func (v Verdict) valid() bool { return v.TSCKHz > 0 && (v.Accel == KVM || v.Accel == TCG) }

// kept is where the verdict on a kernel is kept, one file a kernel.
func (p Prober) kept(version, vmlinux string) (verdict.File[Verdict], error) {
	info, err := os.Stat(vmlinux)
	if err != nil {
		return verdict.File[Verdict]{}, fmt.Errorf("stat kernel: %w", err)
	}
	inode := uint64(0)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = stat.Ino
	}
	// Whether /dev/kvm may be opened belongs to the user and changes while the host is up.
	allowed := "unreadable"
	if kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		kvm.Close()
		allowed = "opens"
	}
	key := fmt.Sprintf("%q %q %q %s %d %d %d",
		p.Binary, version, p.KVMPath, allowed, inode, info.Size(), info.ModTime().UnixNano())
	name := fmt.Sprintf("accel-%x.json", sha256.Sum256([]byte(key)))
	return verdict.File[Verdict]{Path: filepath.Join(p.CacheDir, name), Key: key}, nil
}
