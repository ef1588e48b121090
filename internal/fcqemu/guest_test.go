package fcqemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// One VM with every device shows what the API does to a running guest.
func TestGuest(t *testing.T) {
	p := serve(t, nil, "--metrics-path", "metrics")
	p.guestConfig(t)
	p.must(t, "PUT", "/drives/data", fmt.Sprintf(`{"drive_id":"data","is_root_device":false,"path_on_host":%q}`, p.disk(t, "first", "first", 1<<20)))
	p.must(t, "PUT", "/drives/slow", fmt.Sprintf(`{"drive_id":"slow","is_root_device":false,"is_read_only":true,"path_on_host":%q,"rate_limiter":{"bandwidth":{"size":1048576,"refill_time":1000}}}`,
		p.disk(t, "slow", "slow", 8<<20)))
	p.must(t, "PUT", "/entropy", `{}`)
	p.must(t, "PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":false,"stats_polling_interval_s":1}`)
	if got := p.metricsSize(t); got != 0 {
		t.Errorf("%d metrics lines before the start", got)
	}
	p.start(t)
	if got := p.metricsSize(t); got != 1 {
		t.Errorf("%d metrics lines at the start, want one", got)
	}

	t.Run("entropy", p.testEntropy)
	t.Run("drive limiter", p.testDriveLimiter)
	t.Run("replace drive", p.testReplaceDrive)
	t.Run("balloon", p.testBalloon)
	t.Run("pause", p.testPause)
	t.Run("metrics", p.testMetrics)
}

func (p *program) testEntropy(t *testing.T) {
	if got := p.ask(t, "cat /sys/class/misc/hw_random/rng_available"); !strings.Contains(got, "virtio_rng.0") {
		t.Errorf("the guest's random devices are %q", got)
	}
	if a, b := p.ask(t, "read /dev/hwrng 32"), p.ask(t, "read /dev/hwrng 32"); a == b {
		t.Errorf("twice the same random bytes %x", a)
	}
}

func (p *program) testDriveLimiter(t *testing.T) {
	read := func(n int) time.Duration {
		began := time.Now()
		conn := p.command(t, fmt.Sprintf("read /dev/vdb %d", n))
		if got, err := io.Copy(io.Discard, conn); err != nil || got != int64(n) {
			t.Fatalf("read %d bytes: %v", got, err)
		}
		return time.Since(began)
	}
	if took := read(3 << 20); took < time.Second {
		t.Errorf("3 MiB at 1 MiB/s took %v", took)
	}
	p.must(t, "PATCH", "/drives/slow", `{"drive_id":"slow","rate_limiter":{"bandwidth":{"size":0,"refill_time":0}}}`)
	read(8 << 20)
	if got := p.config(t).Drives[1].RateLimiter; got != nil {
		t.Errorf("the limiter that was removed is shown as %+v", got)
	}
	p.must(t, "PATCH", "/drives/slow", `{"drive_id":"slow","rate_limiter":{"ops":{"size":1000,"refill_time":1000}}}`)
	if got := p.config(t).Drives[1].RateLimiter; got == nil || got.Bandwidth != nil || got.Ops.Size != 1000 {
		t.Errorf("the new limiter is shown as %+v", got)
	}
}

func (p *program) testReplaceDrive(t *testing.T) {
	for _, size := range []int64{4 << 20, 2 << 20} { // larger, and smaller
		path := p.disk(t, fmt.Sprint("disk", size), fmt.Sprint("is", size), size)
		p.must(t, "PATCH", "/drives/data", fmt.Sprintf(`{"drive_id":"data","path_on_host":%q}`, path))
		// The guest's driver hears of it by an interrupt.
		until(t, "new size in the guest", func() bool { return p.ask(t, "size /dev/vda") == fmt.Sprint(size) })
		if got, want := p.ask(t, "read /dev/vda 9"), fmt.Sprint("is", size); got != want {
			t.Errorf("the guest reads %q, want %q", got, want)
		}
		if got := *p.config(t).Drives[0].PathOnHost; got != path {
			t.Errorf("the path is shown as %s", got)
		}
	}
	if got := p.refused(t, "PATCH", "/drives/data", `{"drive_id":"data","path_on_host":"/nope"}`); !strings.Contains(got, "No such file or directory (os error 2) /nope") {
		t.Error(got)
	}
	if got := p.refused(t, "PATCH", "/drives/data", `{"drive_id":"data"}`); !strings.Contains(got, "Running method expected different backend.") {
		t.Error(got)
	}
	if got := p.refused(t, "PATCH", "/drives/other", `{"drive_id":"other","path_on_host":"x"}`); !strings.Contains(got, "other") {
		t.Error(got)
	}
	if got := p.ask(t, "write /dev/vda AFTER"); got != "done" {
		t.Error(got)
	}
	if content, err := os.ReadFile(*p.config(t).Drives[0].PathOnHost); err != nil || !strings.HasPrefix(string(content), "AFTER") {
		t.Errorf("what the guest wrote is not in the new file: %v", err)
	}
}

func (p *program) testBalloon(t *testing.T) {
	stats := func() (s map[string]int64) {
		if err := json.Unmarshal([]byte(p.must(t, "GET", "/balloon/statistics", "")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	until(t, "first statistics", func() bool { return stats()["total_memory"] > 0 })
	before := p.memTotalKiB(t)
	p.must(t, "PATCH", "/balloon", `{"amount_mib":64}`)
	until(t, "inflate the balloon", func() bool { return stats()["actual_mib"] == 64 })
	if got := before - p.memTotalKiB(t); got != 64<<10 {
		t.Errorf("a balloon of 64 MiB took %d KiB from the guest", got)
	}
	until(t, "new statistics", func() bool { return stats()["total_memory"] <= (before-64<<10)<<10 })
	got := stats()
	for name, want := range map[string]int64{"target_mib": 64, "target_pages": 64 * 256, "actual_mib": 64, "actual_pages": 64 * 256} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
	for _, name := range []string{"free_memory", "available_memory", "disk_caches", "swap_in", "major_faults"} {
		if _, ok := got[name]; !ok {
			t.Errorf("the statistics have no %s", name)
		}
	}
	p.must(t, "PATCH", "/balloon", `{"amount_mib":0}`)
	until(t, "deflate the balloon", func() bool { return p.memTotalKiB(t) == before })
	if got := p.refused(t, "PATCH", "/balloon", `{"amount_mib":257}`); got != errTooManyPages.Error() {
		t.Error(got)
	}
	if got := p.refused(t, "PATCH", "/balloon/statistics", `{"stats_polling_interval_s":0}`); !strings.Contains(got, "Cannot enable/disable the statistics after boot.") {
		t.Error(got)
	}
	if got := strings.TrimSpace(p.must(t, "GET", "/balloon", "")); !strings.HasPrefix(got, `{"amount_mib":0,"deflate_on_oom":false,"stats_polling_interval_s":1,`) {
		t.Error(got)
	}
}

func (p *program) testPause(t *testing.T) {
	conn := p.command(t, "echo")
	for range 2 {
		p.must(t, "PATCH", "/vm", `{"state":"Paused"}`)
		if got := p.must(t, "GET", "/", ""); !strings.Contains(got, `"state":"Paused"`) {
			t.Error(got)
		}
	}
	fmt.Fprint(conn, "ping")
	// Beyond the two seconds which a host-initiated connection has for its answer.
	conn.SetReadDeadline(time.Now().Add(vsockRequestTimeout + time.Second))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a paused guest: read %d, %v", n, err)
	}
	if _, _, err := p.connect(t, "CONNECT 52\n"); !errors.Is(err, errRefused) {
		t.Errorf("a new connection to a paused guest: %v, want refused", err)
	}
	for range 2 {
		p.must(t, "PATCH", "/vm", `{"state":"Resumed"}`)
		if got := p.must(t, "GET", "/", ""); !strings.Contains(got, `"state":"Running"`) {
			t.Error(got)
		}
	}
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Errorf("the connection from before the pause: %v", err)
	}
	if got := p.ask(t, "exec"); got != "done" {
		t.Error(got)
	}
}

func (p *program) testMetrics(t *testing.T) {
	p.must(t, "PUT", "/actions", `{"action_type":"FlushMetrics"}`)
	p.must(t, "PUT", "/actions", `{"action_type":"FlushMetrics"}`)
	lines := p.metricsLines(t, "metrics")
	if len(lines) != 3 {
		t.Fatalf("%d metrics lines, want that of the start and two", len(lines))
	}
	for _, line := range lines {
		for group, want := range requiredMetrics {
			for name := range strings.FieldsSeq(want) {
				if _, ok := line[group][name]; !ok {
					t.Errorf("there is no %s %s; there are %v", group, name, slices.Sorted(maps.Keys(line[group])))
				}
			}
		}
	}
	if got := lines[1]["vsock"]["conns_added"].(float64); got < 5 {
		t.Errorf("%v connections counted", got)
	}
	if got := lines[1]["latencies_us"]["pause_vm"].(float64); got <= 0 {
		t.Errorf("the pause took %v µs", got)
	}
	// Counters begin anew, latencies stay.
	if added, pause := lines[2]["vsock"]["conns_added"], lines[2]["latencies_us"]["pause_vm"]; added != 0.0 || pause != lines[1]["latencies_us"]["pause_vm"] {
		t.Errorf("the last line has %v connections and a pause of %v µs", added, pause)
	}
	if got := lines[2]["put_api_requests"]["actions_count"]; got != 1.0 {
		t.Errorf("%v actions counted since the last line, want 1", got)
	}
}

// requiredMetrics are some groups of Firecracker's schema (tests/host_tools/fcmetrics.py) in full,
// and something of each other.
var requiredMetrics = map[string]string{
	"api_server":         "process_startup_time_us process_startup_time_cpu_us sync_response_fails sync_vmm_send_timeout_count",
	"balloon":            "activate_fails inflate_count stats_updates_count stats_update_fails deflate_count event_fails",
	"block":              "activate_fails update_count read_bytes write_bytes read_count write_count rate_limiter_throttled_events read_agg write_agg",
	"block_data":         "activate_fails update_count read_bytes write_bytes read_count write_count rate_limiter_throttled_events read_agg write_agg",
	"block_slow":         "activate_fails",
	"deprecated_api":     "deprecated_http_api_calls deprecated_cmd_line_api_calls",
	"get_api_requests":   "instance_info_count machine_cfg_count mmds_count vmm_version_count",
	"i8042":              "error_count missed_read_count missed_write_count read_count reset_count write_count",
	"interrupts":         "triggers config_updates",
	"latencies_us":       "full_create_snapshot diff_create_snapshot load_snapshot pause_vm resume_vm vmm_pause_vm vmm_resume_vm",
	"logger":             "missed_metrics_count metrics_fails missed_log_count log_fails",
	"memory_hotplug":     "activate_fails plug_count plug_agg state_fails",
	"mmds":               "rx_accepted rx_count tx_bytes connections_created connections_destroyed",
	"net":                "activate_fails mac_address_updates rx_bytes_count tx_bytes_count tap_write_agg",
	"patch_api_requests": "drive_count drive_fails network_count network_fails machine_cfg_count machine_cfg_fails mmds_count mmds_fails",
	"put_api_requests":   "actions_count boot_source_count drive_count logger_count machine_cfg_count cpu_cfg_count metrics_count network_count mmds_count vsock_count vsock_fails",
	"seccomp":            "num_faults",
	"signals":            "sigbus sigsegv sigxfsz sigxcpu sigpipe sighup sigill",
	"uart":               "error_count flush_count missed_read_count missed_write_count read_count write_count rate_limiter_dropped_bytes",
	"vcpu":               "exit_io_in exit_io_out exit_mmio_read exit_mmio_write failures exit_io_in_agg exit_io_out_agg exit_mmio_read_agg exit_mmio_write_agg",
	"vmm":                "device_events panic_count",
	"vsock":              "activate_fails conns_added conns_killed conns_removed rx_bytes_count tx_bytes_count rx_read_fails",
	"entropy":            "activate_fails entropy_event_count entropy_bytes host_rng_fails",
}

func (p *program) metricsSize(t *testing.T) int {
	t.Helper()
	return len(p.metricsLines(t, "metrics"))
}

func (p *program) config(t *testing.T) (c vmConfig) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.must(t, "GET", "/vm/config", "")), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *program) memTotalKiB(t *testing.T) (n int64) {
	t.Helper()
	if _, err := fmt.Sscanf(p.ask(t, "cat /proc/meminfo"), "MemTotal: %d kB", &n); err != nil {
		t.Fatal(err)
	}
	return n
}
