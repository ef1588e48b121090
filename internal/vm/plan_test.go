package vm

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	homefolder "banger/internal/home"
	"banger/internal/network"
	"banger/internal/store"
)

func TestCheckName(t *testing.T) {
	good := []string{"a", "0", "web", "web-1", "a--b", strings.Repeat("a", 63)}
	bad := []string{"", "-", "-a", "a-", "A", "a_b", "a.b", "a b", "a/b", "..", "ä", "a\n", strings.Repeat("a", 64)}
	for _, name := range good {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	for _, name := range bad {
		e, ok := errors.AsType[*api.Error](CheckName(name))
		if !ok || e.Code != api.CodeInvalid || e.Hint == "" {
			t.Errorf("CheckName(%q) = %v, want invalid with a hint", name, e)
		}
	}
}

func TestMadeUpNamesAreNames(t *testing.T) {
	for _, adjective := range adjectives {
		for _, animal := range animals {
			if err := CheckName(adjective + "-" + animal + "-" + newID()); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestNewID(t *testing.T) {
	a, b := newID(), newID()
	if len(a) != 12 || a == b || strings.Trim(a, "0123456789abcdef") != "" {
		t.Errorf("ids %q and %q: want 12 hex digits each, different", a, b)
	}
}

func TestCheckSize(t *testing.T) {
	good := store.VM{CPUs: 1, MemoryMiB: 128, DiskMiB: 64}
	tests := []struct {
		name   string
		change func(*store.VM)
		want   string // "" when it is allowed
	}{
		{"Least", func(*store.VM) {}, ""},
		{"Most", func(v *store.VM) { v.CPUs, v.MemoryMiB, v.DiskMiB = 32, 4096, 8<<20 }, ""},
		{"NoCPU", func(v *store.VM) { v.CPUs = 0 }, "0 CPUs: a machine has 1 to 32"},
		{"NegativeCPUs", func(v *store.VM) { v.CPUs = -1 }, "-1 CPUs"},
		{"CPUs", func(v *store.VM) { v.CPUs = 33 }, "33 CPUs"},
		{"LittleMemory", func(v *store.VM) { v.MemoryMiB = 127 }, "127 MiB of memory: a machine needs 128 MiB at least"},
		{"MoreThanTheHost", func(v *store.VM) { v.MemoryMiB = 4097 }, "4097 MiB of memory: this host has 4096 MiB"},
		{"SmallDisk", func(v *store.VM) { v.DiskMiB = 63 }, "a disk of 63 MiB"},
		{"LargeDisk", func(v *store.VM) { v.DiskMiB = 8<<20 + 1 }, "a disk of 8388609 MiB"},
		{"Env", func(v *store.VM) { v.Env = []string{"A=b", "EMPTY=", "C=d=e"} }, ""},
		{"EnvWithoutValue", func(v *store.VM) { v.Env = []string{"A"} }, `bad environment variable "A"`},
		{"EnvWithoutName", func(v *store.VM) { v.Env = []string{"=b"} }, `bad environment variable "=b"`},
		{"EnvWithNull", func(v *store.VM) { v.Env = []string{"A=\x00"} }, `bad environment variable`},
		{"ManyEnv", func(v *store.VM) { v.Env = make([]string, 257) }, "257 environment variables: at most 256"},
	}
	for _, tt := range tests {
		v := good
		tt.change(&v)
		err := checkSize(v, 4096)
		if tt.want == "" && err != nil || tt.want != "" && (api.CodeOf(err) != api.CodeInvalid || err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s: checkSize = %v, want %q", tt.name, err, tt.want)
		}
	}
}

// describePlan writes a plan as text, one thing a line.
func describePlan(p bootPlan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "machine %d cpus %d MiB\n", p.machine.VCPUCount, p.machine.MemSizeMiB)
	fmt.Fprintf(&b, "kernel %s\ninitrd %s\n", p.source.KernelImagePath, p.source.InitrdPath)
	for arg := range strings.FieldsSeq(p.source.BootArgs) {
		fmt.Fprintf(&b, "arg %s\n", arg)
	}
	for _, n := range p.nics {
		fmt.Fprintf(&b, "nic %s %s %s\n", n.IfaceID, n.HostDevName, n.GuestMAC)
	}
	for _, d := range p.drives {
		fmt.Fprintf(&b, "drive %s %s root=%t ro=%t cache=%s\n", d.DriveID, d.PathOnHost, d.IsRootDevice, d.IsReadOnly, d.CacheType)
	}
	fmt.Fprintf(&b, "vsock %d %s\n", p.vsock.GuestCID, p.vsock.UDSPath)
	fmt.Fprintf(&b, "serial %s", p.serial.SerialOutPath)
	if limit := p.serial.RateLimiter; limit != nil {
		fmt.Fprintf(&b, " %d bytes in %d ms", limit.Size, limit.RefillTimeMS)
	}
	b.WriteByte('\n')
	fmt.Fprintf(&b, "balloon %d MiB deflate=%t report=%t\n", p.balloon.AmountMiB, p.balloon.DeflateOnOOM, p.balloon.FreePageReporting)
	return b.String()
}

func TestGuestNetworkArgs(t *testing.T) {
	n := guestNetwork{tap: network.Tap{Name: "tap1", MTU: 1400}, address: netip.MustParseAddr("172.30.0.7"), subnet: network.DefaultSubnet}
	const v4 = "banger.address=172.30.0.7/16 banger.gateway=172.30.0.1 banger.dns=172.30.0.1 banger.mtu=1400 banger.search=vm"
	inside, outside := n, n
	inside.tap.Address6 = netip.MustParsePrefix("fd62:616e:6765::ac1e:7/112")
	outside.tap.Address6, outside.tap.Gateway6 = inside.tap.Address6, netip.MustParseAddr("fd62:616e:6765::ac1e:1")
	for _, tt := range []struct {
		name string
		n    guestNetwork
		want string
	}{
		{"None", guestNetwork{}, ""},
		{"IPv4", n, v4},
		{"IPv6Inside", inside, v4 + " banger.address6=fd62:616e:6765::ac1e:7/112"},
		{"IPv6Outside", outside, v4 + " banger.address6=fd62:616e:6765::ac1e:7/112 banger.gateway6=fd62:616e:6765::ac1e:1"},
	} {
		if got := strings.Join(tt.n.args(), " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestPlanBoot(t *testing.T) {
	got := describePlan(planBoot("web", 4, 2048, "/v/abc", bootFiles{rootfs: "/i/rootfs", vmlinux: "/k/vmlinux", modules: "/k/modules", initrd: "/k/initrd"}, guestNetwork{
		tap: network.Tap{Name: "tap1", MTU: 1400}, address: netip.MustParseAddr("172.30.0.7"), subnet: network.DefaultSubnet,
	}))
	want := `machine 4 cpus 2048 MiB
kernel /k/vmlinux
initrd /k/initrd
arg console=ttyS0
arg quiet
arg reboot=k
arg panic=-1
arg i8042.noaux
arg cryptomgr.notests
arg net.ifnames=0
arg random.trust_cpu=on
arg banger.hostname=web
arg banger.address=172.30.0.7/16
arg banger.gateway=172.30.0.1
arg banger.dns=172.30.0.1
arg banger.mtu=1400
arg banger.search=vm
nic eth0 tap1 02:00:ac:1e:00:07
drive image /i/rootfs root=false ro=true cache=
drive disk /v/abc/disk.ext4 root=false ro=false cache=Writeback
drive modules /k/modules root=false ro=true cache=
vsock 3 /v/abc/vsock.sock
serial /v/abc/console.log 1048576 bytes in 1000 ms
balloon 0 MiB deflate=true report=true
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

// A VM that builds has no image below its disk, and a drive with what it is built from.
func TestPlanBootOfBuild(t *testing.T) {
	got := describePlan(planBoot("build-web", 1, 128, "/v/abc", bootFiles{vmlinux: "/k/vmlinux", modules: "/k/modules", initrd: "/k/initrd", inputs: "/v/abc/inputs.ext4"}, guestNetwork{}))
	for _, want := range []string{
		"arg banger.root=own\n",
		"drive inputs /v/abc/inputs.ext4 root=false ro=true cache=\ndrive disk /v/abc/disk.ext4 root=false ro=false cache=Writeback\ndrive modules /k/modules root=false ro=true cache=\nvsock",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the plan lacks %q:\n%s", want, got)
		}
	}
}

func TestBuildName(t *testing.T) {
	for image, want := range map[string]string{"web": "build-web", "Mine:2.0_x": "build-mine-2-0-x", strings.Repeat("ab", 40): "build-" + strings.Repeat("ab", 20), "ü": "build", "a.": "build-a"} {
		got := buildName(image)
		if got != want {
			t.Errorf("the machine that builds %q is named %q, want %q", image, got, want)
		}
		if err := CheckName(got); err != nil {
			t.Error(err)
		}
	}
}

// What does not look as usual is told to the guest.
func TestPlanBootForeign(t *testing.T) {
	got := describePlan(planBoot("web", 1, 512, "/v/abc", bootFiles{rootfs: "/i/rootfs", vmlinux: "/k/vmlinux", initrd: "/k/initrd", imageUUID: "0123"}, guestNetwork{}))
	for _, want := range []string{"arg banger.image=0123\n", "arg banger.modules=none\n", "drive disk /v/abc/disk.ext4 root=false ro=false cache=Writeback\nvsock"} {
		if !strings.Contains(got, want) {
			t.Errorf("plan without %q:\n%s", want, got)
		}
	}
}

func TestCheckSocketPaths(t *testing.T) {
	longest := homefolder.MaxSocketPathBytes - len("/vsock.sock")
	if err := Dir("/" + strings.Repeat("x", longest-1)).checkSocketPaths(); err != nil {
		t.Error(err)
	}
	if err := Dir("/" + strings.Repeat("x", longest)).checkSocketPaths(); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a byte more: %v, want invalid", err)
	}
}

func TestTryLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := tryLock(path)
	if first == nil || err != nil {
		t.Fatalf("tryLock = %v, %v", first, err)
	}
	if second, err := tryLock(path); second != nil || err != nil {
		t.Errorf("tryLock of a held lock = %v, %v; want nothing", second, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := tryLock(path)
	if third == nil || err != nil {
		t.Fatalf("tryLock of a free lock = %v, %v", third, err)
	}
	third.Close()
	if _, err := tryLock(filepath.Join(path, "none")); err == nil {
		t.Error("a lock below a file was taken")
	}
}

func TestEndReason(t *testing.T) {
	tests := []struct{ name, console, log, want string }{
		{"Nothing", "", "", "vmm died"},
		{"GoodEndInLog", "", "x\nFirecracker exiting successfully. exit_code=0\n", "guest powered off"},
		{"Panic", "[1] Kernel panic - not syncing: Attempted to kill init!\r\n[2] more\n", "Firecracker exiting successfully. exit_code=0", "guest panicked: Kernel panic - not syncing: Attempted to kill init!"},
		{"LastPanic", "Kernel panic - not syncing: a\nKernel panic - not syncing: b", "", "guest panicked: Kernel panic - not syncing: b"},
	}
	for _, tt := range tests {
		dir := Dir(t.TempDir())
		if err := errors.Join(os.WriteFile(dir.ConsoleLog(), []byte(tt.console), 0o600), os.WriteFile(dir.VMMLog(), []byte(tt.log), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := endReason(nil, dir); got != tt.want {
			t.Errorf("%s: endReason = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestQuoteTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := quoteTail("console", path); got != "" {
		t.Errorf("without a file: %q", got)
	}
	var lines []string
	for i := range 20 {
		lines = append(lines, fmt.Sprintf("line %d", i))
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "\nconsole ends:\n  " + strings.Join(lines[10:], "\n  ")
	if diff := cmp.Diff(want, quoteTail("console", path)); diff != "" {
		t.Errorf("quoteTail (-want +got):\n%s", diff)
	}
	if got := tailOf(path, 5); string(got) != " 19\n\n" {
		t.Errorf("tailOf = %q", got)
	}
}
