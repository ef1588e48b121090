package procfs

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Recorded on Linux 6.12: cat /proc/stat, /proc/meminfo, /proc/loadavg, /proc/net/tcp,
// /proc/net/udp6, shortened.
const (
	stat = `cpu  100 20 300 4000 50 6 7 8 9 10
cpu0 50 10 150 2000 25 3 3 4 4 5
cpu1 50 10 150 2000 25 3 4 4 5 5
intr 12345
`
	meminfo = `MemTotal:         991192 kB
MemFree:          123456 kB
MemAvailable:     792784 kB
`
	tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4343 1 0000000000000000 20 4 30 10 -1
`
	udp6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  12: 000080FE00000000FF005450B6AD1DFE:0222 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5151 2 0000000000000000 0
`
)

// layOut makes a /proc of given files; "-> x" is a symlink.
func layOut(t *testing.T, files map[string]string) string {
	t.Helper()
	proc := t.TempDir()
	for name, content := range files {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if len(content) > 3 && content[:3] == "-> " {
			err = os.Symlink(content[3:], path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return proc
}

func TestRead(t *testing.T) {
	proc := layOut(t, map[string]string{
		"stat": stat, "meminfo": meminfo, "loadavg": "0.50 1.25 2.00 1/93 457\n",
		"7/stat": "7 (a (b) c) S 1 7 7 0 -1", "self/stat": "", "42/stat": "42 (x) R 7",
	})
	cpu, err := ReadCPU(proc)
	if want := (CPU{Count: 2, BusyMS: 4410, TotalMS: 44910}); err != nil || cpu != want {
		t.Errorf("ReadCPU: %+v, %v, want %+v", cpu, err, want)
	}
	memory, err := ReadMemory(proc)
	if want := (Memory{Total: 991192 << 10, Available: 792784 << 10}); err != nil || memory != want {
		t.Errorf("ReadMemory: %+v, %v, want %+v", memory, err, want)
	}
	load, err := ReadLoad(proc)
	if want := [3]float64{0.5, 1.25, 2}; err != nil || load != want {
		t.Errorf("ReadLoad: %v, %v, want %v", load, err, want)
	}
	pids, err := PIDs(proc)
	if err != nil || len(pids) != 2 {
		t.Errorf("PIDs: %v, %v, want 2", pids, err)
	}
	process, err := ReadProcess(proc, 7)
	if want := (Process{Name: "a (b) c", Parent: 1}); err != nil || process != want {
		t.Errorf("ReadProcess: %+v, %v, want %+v", process, err, want)
	}
}

func TestReadErr(t *testing.T) {
	proc := layOut(t, map[string]string{
		"stat": "cpu  1 x\n", "meminfo": "MemFree: 1 kB\n", "loadavg": "1 2",
		"1/stat": "1 (x",
	})
	for name, read := range map[string]func() error{
		"CPU":     func() error { _, err := ReadCPU(proc); return err },
		"Memory":  func() error { _, err := ReadMemory(proc); return err },
		"Load":    func() error { _, err := ReadLoad(proc); return err },
		"Process": func() error { _, err := ReadProcess(proc, 1); return err },
		"Gone":    func() error { _, err := ReadProcess(proc, 2); return err },
	} {
		if read() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPorts(t *testing.T) {
	proc := layOut(t, map[string]string{
		"net/tcp": tcp, "net/udp6": udp6, "7/stat": "7 (web server) S 1 7", "7/fd/3": "-> socket:[4242]",
		"9/stat": "9 (child) S 7 7", "9/fd/3": "-> socket:[4242]", "9/fd/4": "-> /dev/null",
	})
	want := []Port{
		{Network: "tcp", Address: netip.MustParseAddrPort("127.0.0.1:8080"), Inode: 4242, PID: 7, Process: "web server"},
		{Network: "udp6", Address: netip.MustParseAddrPort("[fe80::5054:ff:fe1d:adb6]:546"), Inode: 5151},
	}
	got, err := Ports(proc, 10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, err := Ports(proc, 1); err != nil || len(got) != 1 {
		t.Errorf("at most 1: %+v, %v", got, err)
	}
}

// The real kernel's tables must read as well.
func TestPortsOfThisHost(t *testing.T) {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		l, err = net.Listen("tcp4", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ports, err := Ports("/proc", 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		if p.Address.String() == l.Addr().String() {
			if p.PID != os.Getpid() {
				t.Errorf("owner %d, want %d", p.PID, os.Getpid())
			}
			return
		}
	}
	t.Errorf("%v is not among %d ports", l.Addr(), len(ports))
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{stat, meminfo, tcp, udp6, "7 (a) S 1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseCPU(b)
		_, _ = parseMemory(b)
		_, _ = parseProcess(b)
		ports, err := parsePorts("tcp6", b)
		for _, p := range ports {
			if err == nil && !p.Address.IsValid() {
				t.Errorf("port %s without an address", strconv.FormatUint(p.Inode, 10))
			}
		}
	})
}

// Each number that is none, and each line that is missing, is an error which says where.
func TestParseErrors(t *testing.T) {
	tests := []struct {
		name string
		read func() error
		want string
	}{
		{"CPUNumber", func() error { _, err := parseCPU([]byte("cpu 1 -2\ncpu0 1\n")); return err }, "parse stat: strconv"},
		{
			"NoCPU", func() error { _, err := parseCPU([]byte("cpu 1 2 3 4\nintr 7\n")); return err },
			"parse stat: no cpu line",
		},
		{
			"MemoryNumber", func() error { _, err := parseMemory([]byte("MemTotal: x kB\n")); return err },
			"parse meminfo: strconv",
		},
		{
			"MemoryHuge", func() error { _, err := parseMemory([]byte("MemTotal: 99999999999999999 kB\n")); return err },
			"parse meminfo: strconv",
		},
		{
			"NoMemory", func() error { _, err := parseMemory([]byte("MemAvailable: 1 kB\nMemTotal:\n")); return err },
			"parse meminfo: no MemTotal",
		},
		{"NoName", func() error { _, err := parseProcess([]byte("7 x S 1")); return err }, "parse process: no name"},
		{
			"BracketsSwapped", func() error { _, err := parseProcess([]byte("7 )x( S 1")); return err },
			"parse process: no name",
		},
		{"NoParent", func() error { _, err := parseProcess([]byte("7 (x) S")); return err }, "parse process: no parent"},
		{
			"ParentNumber", func() error { _, err := parseProcess([]byte("7 (x) S one")); return err },
			"parse process: strconv",
		},
		{"Load", func() error {
			_, err := ReadLoad(layOut(t, map[string]string{"loadavg": "0.1 x 0.3"}))
			return err
		}, "parse loadavg: strconv"},
		{"NoLoad", func() error { _, err := ReadLoad(layOut(t, map[string]string{"x": ""})); return err }, "open "},
		{
			"NoProc", func() error { _, err := PIDs(layOut(t, map[string]string{"x": ""}) + "/x"); return err },
			"list processes: ",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.read(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// A table without an end does not fill the agent's memory.
func TestReadFileIsBounded(t *testing.T) {
	proc := t.TempDir()
	if err := os.WriteFile(proc+"/stat", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(proc+"/stat", 1<<40); err != nil {
		t.Fatal(err)
	}
	if b, err := readFile(proc, "stat"); len(b) != maxFileBytes || err != nil {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
}
