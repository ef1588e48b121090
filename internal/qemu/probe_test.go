package qemu

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger/internal/qemu/qemutest"
)

func TestProbe(t *testing.T) {
	p := Prober{Binary: DefaultBinary, CacheDir: filepath.Join(t.TempDir(), "cache")}
	var wg sync.WaitGroup
	verdicts := make([]Verdict, 2)
	for i := range verdicts {
		wg.Go(func() {
			var err error
			if verdicts[i], err = p.Probe(testContext(t), qemutest.Kernel(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v := verdicts[0]
	if v.Accel != verdicts[1].Accel || v.Why == "" || v.QEMUVersion == "" || v.TSCKHz < 100_000 {
		t.Errorf("verdicts are %+v", verdicts)
	}
	files, err := filepath.Glob(p.CacheDir + "/*")
	if err != nil || len(files) != 1 {
		t.Fatalf("the cache holds %v, want one file", files)
	}

	// The second time nothing is tried: the kept words come back.
	v.Why = "kept"
	kept, err := p.kept(v.QEMUVersion, qemutest.Kernel(t))
	if err != nil || kept.Path != files[0] {
		t.Fatalf("the verdict is kept in %s, %v; want %s", kept.Path, err, files[0])
	}
	if err := kept.Store(v); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Probe(testContext(t), qemutest.Kernel(t)); got != v || err != nil {
		t.Errorf("got %+v, %v, want the kept one", got, err)
	}
	v.TSCKHz = 0
	if err := kept.Store(v); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Probe(testContext(t), qemutest.Kernel(t)); got.Accel != v.Accel || got.Why == "kept" || err != nil {
		t.Errorf("damaged cache: got %+v, %v, want a new verdict", got, err)
	}
}

func TestProbeWithoutKVM(t *testing.T) {
	p := Prober{Binary: DefaultBinary, CacheDir: t.TempDir(), KVMPath: "/nonexistent/kvm"}
	got, err := p.Probe(testContext(t), qemutest.Kernel(t))
	if err != nil || got.Accel != TCG || !strings.Contains(got.Why, "no KVM") {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := p.Probe(testContext(t), "/nonexistent"); err == nil || !strings.Contains(err.Error(), "stat kernel") {
		t.Errorf("no kernel: got %v", err)
	}
	p.Binary = "/nonexistent"
	if _, err := p.Probe(testContext(t), qemutest.Kernel(t)); err == nil ||
		!strings.Contains(err.Error(), "install QEMU") {
		t.Errorf("no QEMU: got %v", err)
	}
}
