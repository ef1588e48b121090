package fcqemu

import (
	"encoding/json"
	"io"
	"strings"
	"sync"
	"time"
)

// metricsPeriod is how often the counters are written by themselves.
const metricsPeriod = 60 * time.Second

// metricKeys are all keys which Firecracker's schema requires. Those that QEMU knows nothing of
// stay 0.
const metricKeys = `
api_server process_startup_time_us process_startup_time_cpu_us sync_response_fails sync_vmm_send_timeout_count
balloon activate_fails inflate_count stats_updates_count stats_update_fails deflate_count event_fails
block activate_fails cfg_fails no_avail_buffer event_fails execute_fails invalid_reqs_count flush_count queue_event_count rate_limiter_event_count update_count update_fails read_bytes write_bytes read_count write_count rate_limiter_throttled_events io_engine_throttled_events remaining_reqs_count read_agg. write_agg.
deprecated_api deprecated_http_api_calls deprecated_cmd_line_api_calls
get_api_requests instance_info_count machine_cfg_count mmds_count vmm_version_count
i8042 error_count missed_read_count missed_write_count read_count reset_count write_count
interrupts triggers config_updates
latencies_us full_create_snapshot diff_create_snapshot load_snapshot pause_vm resume_vm vmm_full_create_snapshot vmm_diff_create_snapshot vmm_load_snapshot vmm_pause_vm vmm_resume_vm
logger missed_metrics_count metrics_fails missed_log_count log_fails
memory_hotplug activate_fails queue_event_fails queue_event_count plug_agg. plug_count plug_bytes plug_fails unplug_agg. unplug_count unplug_bytes unplug_fails unplug_discard_fails unplug_all_agg. unplug_all_count unplug_all_fails state_agg. state_count state_fails
mmds rx_accepted rx_accepted_err rx_accepted_unusual rx_bad_eth rx_count tx_bytes tx_count tx_errors tx_frames connections_created connections_destroyed
net activate_fails cfg_fails mac_address_updates no_rx_avail_buffer no_tx_avail_buffer event_fails rx_queue_event_count rx_event_rate_limiter_count rx_partial_writes rx_rate_limiter_throttled rx_tap_event_count rx_bytes_count rx_packets_count rx_fails rx_count tap_read_fails tap_write_fails tx_bytes_count tx_malformed_frames tx_fails tx_count tx_packets_count tx_partial_reads tx_queue_event_count tx_rate_limiter_event_count tx_rate_limiter_throttled tx_spoofed_mac_count tx_remaining_reqs_count tap_write_agg.
patch_api_requests drive_count drive_fails network_count network_fails machine_cfg_count machine_cfg_fails mmds_count mmds_fails
put_api_requests actions_count actions_fails boot_source_count boot_source_fails drive_count drive_fails logger_count logger_fails machine_cfg_count machine_cfg_fails cpu_cfg_count cpu_cfg_fails metrics_count metrics_fails network_count network_fails mmds_count mmds_fails vsock_count vsock_fails
seccomp num_faults
vcpu exit_io_in exit_io_out exit_mmio_read exit_mmio_write failures exit_io_in_agg. exit_io_out_agg. exit_mmio_read_agg. exit_mmio_write_agg.
vmm device_events panic_count
uart error_count flush_count missed_read_count missed_write_count read_count write_count rate_limiter_dropped_bytes
signals sigbus sigsegv sigxfsz sigxcpu sigpipe sighup sigill
vsock activate_fails cfg_fails rx_queue_event_fails tx_queue_event_fails ev_queue_event_fails muxer_event_fails conn_event_fails rx_queue_event_count tx_queue_event_count rx_bytes_count tx_bytes_count rx_packets_count tx_packets_count conns_added conns_killed conns_removed killq_resync tx_flush_fails tx_write_fails rx_read_fails
entropy activate_fails entropy_event_fails entropy_event_count entropy_bytes host_rng_fails entropy_rate_limiter_throttled rate_limiter_event_count`

// metrics counts and writes Firecracker's metrics lines. Counters begin anew with each line,
// latencies stay.
type metrics struct {
	mu     sync.Mutex
	out    io.WriteCloser // nil until configured
	counts map[string]int64
	// devices are the groups that drives and cards have beside that of their kind, such as
	// block_root.
	devices []string
}

func newMetrics() *metrics { return &metrics{counts: map[string]int64{}} }

// add counts under "group key".
func (m *metrics) add(key string, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[key] += n
}

// latency stores how long an operation took.
func (m *metrics) latency(operation string, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts["latencies_us "+operation] = d.Microseconds()
	m.counts["latencies_us vmm_"+operation] = d.Microseconds()
}

// flush writes a line, if metrics are configured.
func (m *metrics) flush(now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.out == nil {
		return nil
	}
	line, err := json.Marshal(m.document(now))
	if err != nil {
		return err
	}
	_, err = m.out.Write(append(line, '\n'))
	for key := range m.counts {
		if !strings.HasPrefix(key, "latencies_us ") {
			delete(m.counts, key)
		}
	}
	return err
}

func (m *metrics) document(now time.Time) map[string]any {
	document := map[string]any{"utc_timestamp_ms": now.UnixMilli()}
	for line := range strings.Lines(strings.TrimSpace(metricKeys)) {
		words := strings.Fields(line)
		document[words[0]] = m.group(words[0], words[1:])
		for _, device := range m.devices {
			if strings.HasPrefix(device, words[0]+"_") {
				document[device] = m.group(device, words[1:])
			}
		}
	}
	return document
}

func (m *metrics) group(name string, keys []string) map[string]any {
	group := map[string]any{}
	for _, key := range keys {
		if aggregate, ok := strings.CutSuffix(key, "."); ok {
			group[aggregate] = map[string]int64{"min_us": 0, "max_us": 0, "sum_us": 0}
			continue
		}
		group[key] = m.counts[name+" "+key]
	}
	return group
}

// addDevice gives a device a group of its own; kind is block or net.
func (m *metrics) addDevice(kind, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.devices = append(m.devices, kind+"_"+id)
}

// setOutput begins to write to out.
func (m *metrics) setOutput(out io.WriteCloser) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out = out
}
