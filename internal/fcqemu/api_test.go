package fcqemu

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/qemu"
)

func newTestVMM(t *testing.T) *vmm {
	t.Helper()
	v := newVMM(t.Context(), "test", newLogHandler("test", t.Output()))
	t.Cleanup(v.close)
	return v
}

// call asks the handler and returns status and body.
func call(v *vmm, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	v.handlerFor(defaultMaxBody)(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRefused(t *testing.T) {
	disk := file(t, "disk")
	tests := []struct{ method, path, body, want string }{
		{"GET", "/", "{}", "GET request cannot have a body."},
		{"PUT", "/drives/a", "", "Empty PUT request."},
		{"PATCH", "/machine-config", "", "Empty PATCH request."},
		{"PATCH", "/boot-source", `{"kernel_image_path":"x"}`, "Invalid request method and/or path: PATCH boot-source."},
		{"GET", "/nope", "", "Invalid request method and/or path: GET nope."},
		{"POST", "/actions", "{}", "Invalid request method and/or path"},
		{"PUT", "/boot-source", `{"kernel_image_path":"/foo.bar"}`, "The kernel file cannot be opened: No such file or directory (os error 2)"},
		{"PUT", "/boot-source", `{"kernel_image_path":"` + disk + `","initrd_path":"/foo.bar"}`, "The initrd file cannot be opened"},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"/foo.bar"}`, "No such file or directory (os error 2) /foo.bar"},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"/dev/null"}`, "neither a regular file nor a block device"},
		{"PUT", "/drives/a", `{"drive_id":"b","is_root_device":false,"path_on_host":"` + disk + `"}`, "does not match"},
		{"PUT", "/drives/a-b", `{"drive_id":"a-b","is_root_device":false,"path_on_host":"` + disk + `"}`, "can only contain alphanumeric characters and underscores"},
		{"PUT", "/drives", `{"drive_id":"","is_root_device":false,"path_on_host":"` + disk + `"}`, "The ID cannot be empty."},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"socket":"x"}`, "not supported"},
		{"PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":1}`, "The number of vCPUs must be"},
		{"PUT", "/machine-config", `{"vcpu_count":3,"mem_size_mib":1,"smt":true}`, "The number of vCPUs must be"},
		{"PATCH", "/machine-config", `{"mem_size_mib":0}`, "The memory size (MiB) is either 0, or not a multiple"},
		{"PUT", "/vsock", `{"guest_cid":2,"uds_path":"x"}`, "3 or more"},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"/nope/x"}`, "Vsock config error"},
		{"PUT", "/network-interfaces/a", `{"iface_id":"a","host_dev_name":"a-name-that-is-too-long"}`, "Could not create the network device"},
		{"PUT", "/network-interfaces/a", `{"iface_id":"a","host_dev_name":"t","guest_mac":"x"}`, "invalid MAC address"},
		{"PUT", "/balloon", `{"amount_mib":1024,"deflate_on_oom":false}`, "Amount of pages requested is too large."},
		{"GET", "/balloon", "", "No balloon device found."},
		{"PUT", "/logger", `{"level":"Loud"}`, "unknown variant `Loud`"},
		{"PUT", "/metrics", `{"metrics_path":"/nope/x"}`, "No such file"},
		{"PUT", "/actions", `{"action_type":"InstanceStart"}`, "Cannot start microvm without kernel configuration."},
		{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, "not supported before starting the microVM."},
		{"PATCH", "/vm", `{"state":"Paused"}`, "not supported before starting the microVM."},
		{"PATCH", "/drives/a", `{"drive_id":"a","path_on_host":"x"}`, "not supported before starting the microVM."},
		{"PATCH", "/balloon", `{"amount_mib":1}`, "not supported before starting the microVM."},
		{"PATCH", "/network-interfaces/a", `{"iface_id":"a"}`, "not supported before starting the microVM."},
		{"GET", "/balloon/statistics", "", "not supported before starting the microVM."},
		{"PUT", "/boot-source", strings.Repeat("x", defaultMaxBody+1), "larger than the limit of 51200"},
	}
	for _, path := range []string{
		"PUT /mmds", "PATCH /mmds", "GET /mmds", "PUT /mmds/config", "PUT /snapshot/create", "PUT /snapshot/load", "PUT /pmem/a", "PATCH /pmem/a",
		"PUT /hotplug/memory", "PATCH /hotplug/memory", "GET /hotplug/memory", "PUT /cpu-config", "GET /balloon/hinting/status", "PATCH /balloon/hinting/start",
		"PATCH /balloon/hinting/stop", "DELETE /drives/a",
	} {
		method, path, _ := strings.Cut(path, " ")
		body := "{}"
		if method == "GET" {
			body = ""
		}
		tests = append(tests, struct{ method, path, body, want string }{method, path, body, "not supported"})
	}
	for _, tt := range tests {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			status, got := call(newTestVMM(t), tt.method, tt.path, tt.body)
			var fault map[string]string
			if err := json.Unmarshal([]byte(got), &fault); err != nil || len(fault) != 1 {
				t.Fatalf("%s is no fault", got)
			}
			if status != http.StatusBadRequest || !strings.Contains(fault["fault_message"], tt.want) {
				t.Errorf("%s %s: got %d %s\nwant 400 with %s", tt.method, tt.path, status, got, tt.want)
			}
		})
	}
}

func TestConfigure(t *testing.T) {
	v := newTestVMM(t)
	disk, socket := file(t, "disk"), filepath.Join(t.TempDir(), "v")
	for _, step := range [][3]string{
		{"PUT", "/boot-source", `{"kernel_image_path":"` + disk + `"}`},
		{"PUT", "/machine-config", `{"vcpu_count":4,"mem_size_mib":256,"smt":true}`},
		{"PATCH", "/machine-config", `{"vcpu_count":2}`},
		{"PUT", "/drives/scratch", `{"drive_id":"scratch","is_root_device":false,"is_read_only":false,"path_on_host":"` + disk + `","rate_limiter":{}}`},
		{"PUT", "/drives/root", `{"drive_id":"root","is_root_device":true,"is_read_only":true,"path_on_host":"` + disk + `"}`},
		{"PUT", "/vsock", `{"guest_cid":15,"uds_path":"` + socket + `"}`},
		{"PUT", "/vsock", `{"vsock_id":"x","guest_cid":16,"uds_path":"` + socket + `"}`},
		{"PUT", "/entropy", `{}`},
		{"PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true,"stats_polling_interval_s":5}`},
	} {
		if status, body := call(v, step[0], step[1], step[2]); status != http.StatusNoContent || body != "" {
			t.Fatalf("%v: %d %s", step, status, body)
		}
	}
	if status, body := call(v, "PUT", "/drives/scratch", `{"drive_id":"scratch","is_root_device":true,"path_on_host":"`+disk+`"}`); status != 400 || !strings.Contains(body, "A root block device already exists") {
		t.Errorf("second root: %d %s", status, body)
	}
	_, got := call(v, "GET", "/vm/config", "")
	want := `{"balloon":{"amount_mib":1,"deflate_on_oom":true,"stats_polling_interval_s":5,"free_page_hinting":false,"free_page_reporting":false},` +
		`"boot-source":{"kernel_image_path":"DISK","initrd_path":null,"boot_args":null},"cpu-config":null,"drives":[` +
		`{"drive_id":"root","partuuid":null,"is_root_device":true,"cache_type":"Unsafe","is_read_only":true,"path_on_host":"DISK","rate_limiter":null,"io_engine":"Sync","socket":null},` +
		`{"drive_id":"scratch","partuuid":null,"is_root_device":false,"cache_type":"Unsafe","is_read_only":false,"path_on_host":"DISK","rate_limiter":null,"io_engine":"Sync","socket":null}],` +
		`"entropy":{"rate_limiter":null},"logger":null,"machine-config":{"vcpu_count":2,"mem_size_mib":256,"smt":true,"track_dirty_pages":false,"huge_pages":"None"},` +
		`"memory-hotplug":null,"metrics":null,"mmds-config":null,"network-interfaces":[],"pmem":[],"vsock":{"guest_cid":16,"uds_path":"SOCKET"}}`
	want = strings.NewReplacer("DISK", disk, "SOCKET", socket).Replace(want)
	if strings.TrimSpace(got) != want {
		t.Errorf("config is\n%swant\n%s", got, want)
	}
	if got := v.bootArgs(); !strings.HasSuffix(got, "swiotlb=noforce root=/dev/vda ro") {
		t.Errorf("boot args are %s", got)
	}
}

func TestMetricsLine(t *testing.T) {
	v := newTestVMM(t)
	path := filepath.Join(t.TempDir(), "metrics")
	call(v, "PUT", "/metrics", `{"metrics_path":"`+path+`"}`)
	if status, body := call(v, "PUT", "/metrics", `{"metrics_path":"`+path+`"}`); status != 400 || !strings.Contains(body, "Reinitialization of metrics not allowed.") {
		t.Errorf("second time: %d %s", status, body)
	}
	if err := v.metrics.flush(v.started); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var line struct {
		UTC int64            `json:"utc_timestamp_ms"`
		Put map[string]int64 `json:"put_api_requests"`
	}
	if err := json.Unmarshal(content, &line); err != nil {
		t.Fatal(err)
	}
	if line.UTC == 0 || line.Put["metrics_count"] != 2 || line.Put["metrics_fails"] != 1 {
		t.Errorf("got %+v", line)
	}
}

func TestLimits(t *testing.T) {
	burst := uint64(5)
	got := limits(&rateLimiter{Bandwidth: &tokenBucket{Size: 1000, RefillTime: 100, OneTimeBurst: &burst}, Ops: &tokenBucket{Size: 1, RefillTime: 5000}})
	want := qemu.Limits{BytesPerSecond: 10000, BytesBurst: 1000, OpsPerSecond: 1, OpsBurst: 1}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestArgs(t *testing.T) {
	tests := []struct {
		args string
		code int
		want string
	}{
		{"--version", 0, "Firecracker v1.16.1\n\n"},
		{"--help", 0, "--api-sock"},
		{"--id a --id b", exitArguments, "provided more than once"},
		{"--nope", exitArguments, "Found argument 'nope'"},
		{"--id", exitArguments, "requires a value"},
		{"--id a_b", exitArguments, "Invalid instance ID"},
		{"--no-api", exitArguments, "requires 'config-file'"},
		{"--no-seccomp --seccomp-filter x", exitArguments, "cannot be used together"},
		{"--http-api-max-payload-size x", exitArguments, "positive integer"},
		{"--enable-pci", exitArguments, "not supported"},
		{"--snapshot-version", exitGeneric, "does not support snapshots"},
		{"--no-api --config-file /nope", exitGeneric, "No such file"},
		{"--api-sock /nope/x", exitGeneric, "Failed to open the API socket at: /nope/x"},
		{"--probe-accel /nope", exitGeneric, "stat kernel"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var out strings.Builder
			p := Process{Args: strings.Fields(tt.args), Getenv: func(string) string { return "" }, Stdout: &out, Stderr: &out}
			if got := Run(context.Background(), p); got != tt.code || !strings.Contains(out.String(), tt.want) {
				t.Errorf("exit %d, %s\nwant %d with %s", got, out.String(), tt.code, tt.want)
			}
		})
	}
}
