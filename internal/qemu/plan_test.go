package qemu

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sandbox = "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -global virtio-mmio.force-legacy=false"

func TestArgs(t *testing.T) {
	common := func(accel, cpu, ioapic2, smp, appended string) string {
		return "-M microvm,accel=" + accel + ",acpi=on,rtc=on,pit=off,pic=off,ioapic2=" + ioapic2 +
			",memory-backend=ram -cpu " + cpu + " -smp " + smp +
			" -m 256M -object memory-backend-memfd,id=ram,size=256M,share=on -nodefaults -no-user-config -display none -no-reboot -S " + sandbox +
			" -kernel /k -append " + appended
	}
	tests := []struct {
		name string
		plan Plan
		want string
	}{
		{
			"least, TCG",
			Plan{Accel: TCG, TSCKHz: 2000000, VCPUs: 1, MemoryMiB: 256, Kernel: "/k"},
			common("tcg", "max,-erms,-fsrm", "off", "1", "tsc_early_khz=2000000 tsc=reliable") +
				" -chardev stdio,id=serial,signal=off -serial chardev:serial -device i8042",
		},
		{
			"KVM leaves the arguments alone",
			Plan{Accel: KVM, VCPUs: 4, SMT: true, MemoryMiB: 256, Kernel: "/k", BootArgs: "quiet", Initrd: "/i"},
			common("kvm", "host", "off", "4,threads=2", "quiet") +
				" -initrd /i -chardev stdio,id=serial,signal=off -serial chardev:serial -device i8042",
		},
		{
			"all devices",
			Plan{
				Accel: KVM, VCPUs: 1, MemoryMiB: 256, Kernel: "/k", BootArgs: "quiet", MonitorFD: 3, VsockFD: 4, Port: "p",
				Serial:  Serial{Path: "/a,b"},
				Drives:  []Drive{{ID: "0", Path: "/x,y", ReadOnly: true}, {ID: "1", Path: "/z", NoFlush: true}},
				NICs:    []NIC{{ID: "0", FD: 5, MAC: "06:00:00:00:00:01", MTU: 1400}},
				Entropy: &Entropy{MaxBytes: 10, PeriodMs: 20}, Balloon: &Balloon{DeflateOnOOM: true},
			},
			common("kvm", "host", "off", "1", "quiet") +
				" -chardev socket,id=monitor,fd=3 -mon chardev=monitor,mode=control -chardev file,id=serial,append=on,path=/a,,b -serial chardev:serial -device i8042" +
				" -blockdev driver=file,node-name=file-0-0,filename=/x,,y,read-only=on,cache.no-flush=off,locking=off -blockdev driver=raw,node-name=node-0,file=file-0-0,read-only=on -device virtio-blk-device,id=drive-0,drive=node-0,werror=report,rerror=report" +
				" -blockdev driver=file,node-name=file-1-0,filename=/z,read-only=off,cache.no-flush=on,locking=off -blockdev driver=raw,node-name=node-1,file=file-1-0,read-only=off -device virtio-blk-device,id=drive-1,drive=node-1,werror=report,rerror=report" +
				" -netdev tap,id=net-0,fd=5 -device virtio-net-device,id=nic-0,netdev=net-0,mac=06:00:00:00:00:01,host_mtu=1400" +
				" -chardev socket,id=vsock,fd=4 -device virtio-serial-device,id=ports -device virtserialport,bus=ports.0,chardev=vsock,id=vsockport,name=p" +
				" -object rng-builtin,id=rng -device virtio-rng-device,rng=rng,max-bytes=10,period=20" +
				" -device virtio-balloon-device,id=balloon,deflate-on-oom=on,free-page-reporting=off",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.plan.Args()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(tt.want, " -"), strings.Split(strings.Join(got, " "), " -")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestManyDevicesTakeSecondIOAPIC(t *testing.T) {
	got := Plan{Drives: make([]Drive, 9)}.machine()
	if !strings.Contains(got, "ioapic2=on") {
		t.Errorf("9 devices: %s", got)
	}
}

// An initrd of whole pages is used as it is, another is copied and filled up; see alignedInitrd.
func TestAlignedInitrd(t *testing.T) {
	for _, tt := range []struct{ size, want int64 }{{4096, 4096}, {1, 4096}, {8191, 8192}, {0, 0}} {
		path := t.TempDir() + "/initrd"
		if err := os.WriteFile(path, []byte(strings.Repeat("x", int(tt.size))), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := alignedInitrd(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		f.Close()
		if err != nil || info.Size() != tt.want {
			t.Errorf("size %d became %d, want %d (%v)", tt.size, info.Size(), tt.want, err)
		}
	}
	if _, err := alignedInitrd("/nonexistent"); err == nil {
		t.Error("a file that does not exist was opened")
	}
}

func TestParseVersion(t *testing.T) {
	tests := []struct{ in, want, err string }{
		{"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n", "10.0.2", ""},
		{"QEMU emulator version 8.2.0\n", "8.2.0", ""},
		{"QEMU emulator version 8.1.5\n", "", "bookworm-backports"},
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\n", "", "QEMU 7.2.22 is too old"},
		{"hello", "", "no version"},
		{"QEMU emulator version 99999999999999999999.1", "", "too old"},
	}
	for _, tt := range tests {
		got, err := parseVersion([]byte(tt.in))
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: got %q, %v", tt.in, got, err)
		}
	}
	if _, err := CheckVersion(t.Context(), "/nonexistent/qemu"); err == nil ||
		!strings.Contains(err.Error(), "apt install") {
		t.Errorf("missing QEMU: got %v, want a hint", err)
	}
}

// options reads a key=value list as QEMU does, where a comma in a value is written twice.
func options(list string) map[string]string {
	const comma = "\x00" // no argument can hold it
	all := map[string]string{}
	for option := range strings.SplitSeq(strings.ReplaceAll(list, ",,", comma), ",") {
		key, value, _ := strings.Cut(option, "=")
		all[key] = strings.ReplaceAll(value, comma, ",")
	}
	return all
}

// A path of the API's user names a file, and never an option of its own.
func FuzzDrivePath(f *testing.F) {
	f.Add("/disk,read-only=off", "/console,,append=off")
	f.Add(",", ",,,")
	f.Add("/a=b\n", "-x")
	f.Fuzz(func(t *testing.T, disk, console string) {
		if strings.Contains(disk+console, "\x00") || console == "" {
			return
		}
		got := options(Drive{ID: "0", Path: disk, ReadOnly: true}.args()[1])
		want := map[string]string{
			"driver": "file", "node-name": "file-0-0", "filename": disk, "read-only": "on", "cache.no-flush": "off",
			"locking": "off",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("disk %q (-want +got):\n%s", disk, diff)
		}
		got = options(Serial{Path: console}.chardev())
		if diff := cmp.Diff(map[string]string{"file": "", "id": "serial", "append": "on", "path": console}, got); diff != "" {
			t.Errorf("console %q (-want +got):\n%s", console, diff)
		}
	})
}

// The places for devices are counted as QEMU counts them: each of the kinds takes one.
func TestTransports(t *testing.T) {
	full := Plan{
		Drives: make([]Drive, 10), NICs: make([]NIC, 11), VsockFD: 4, Entropy: &Entropy{}, Balloon: &Balloon{},
	}
	if got := full.transports(); got != MaxDevices {
		t.Errorf("got %d, want %d", got, MaxDevices)
	}
	if _, err := full.Args(); err != nil {
		t.Errorf("as many as there are places for: %v", err)
	}
	full.NICs = append(full.NICs, NIC{})
	if _, err := full.Args(); err == nil || err.Error() != "25 virtio devices: QEMU's microvm has places for 24" {
		t.Errorf("one too many: %v", err)
	}
	for n, want := range map[int]string{8: "ioapic2=off", 9: "ioapic2=on"} {
		if got := (Plan{Drives: make([]Drive, n)}).machine(); !strings.Contains(got, want) {
			t.Errorf("%d devices: %s, want %s", n, got, want)
		}
	}
}

// A limit of entropy needs both its halves, threads need a second CPU, and TCG's words stand behind
// the user's.
func TestArgsOfFeatures(t *testing.T) {
	tests := []struct {
		name string
		plan Plan
		want string
		not  string
	}{
		{"EntropyWithoutLimit", Plan{Entropy: &Entropy{}}, "virtio-rng-device,rng=rng", "max-bytes"},
		{"EntropyWithoutPeriod", Plan{Entropy: &Entropy{MaxBytes: 10}}, "virtio-rng-device,rng=rng", "max-bytes"},
		{"OneCPUHasNoThreads", Plan{VCPUs: 1, SMT: true}, "-smp 1 ", "threads"},
		{"TwoCPUsHaveThreads", Plan{VCPUs: 2, SMT: true}, "-smp 2,threads=2 ", ""},
		{"TCG", Plan{Accel: TCG, TSCKHz: 7, BootArgs: "quiet"}, "-append quiet tsc_early_khz=7 tsc=reliable ", "-cpu host"},
		{"NICWithoutMAC", Plan{NICs: []NIC{{ID: "0", FD: 9}}}, "virtio-net-device,id=nic-0,netdev=net-0", "mac="},
		{"Reporting", Plan{Balloon: &Balloon{FreePageReporting: true}}, "deflate-on-oom=off,free-page-reporting=on", ""},
		{"NoInitrd", Plan{}, "-kernel", "-initrd"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args, err := tt.plan.Args()
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(args, " ")
			if !strings.Contains(got, tt.want) || tt.not != "" && strings.Contains(got, tt.not) {
				t.Errorf("got %s, want %q and not %q", got, tt.want, tt.not)
			}
		})
	}
}
