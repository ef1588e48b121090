package fcqemu

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"banger/internal/qemu/qemutest"
)

// What a request comes to in a phase, beside success.
const (
	tooLate  = "The requested operation is not supported after starting the microVM."
	tooEarly = "The requested operation is not supported before starting the microVM."
	unbuilt  = "is not supported by firecracker-qemu"
)

// Every operation of firecracker.yaml 1.16.1, and the hot-unplugging which it leaves out. K, I, D
// and V stand for paths of kernel, initrd, disk and vsock.
var operations = []struct {
	method, path, body string
	before, after      string // words of the fault, "" for success
}{
	{"GET", "/", "", "", ""},
	{"GET", "/version", "", "", ""},
	{"GET", "/vm/config", "", "", ""},
	{"GET", "/machine-config", "", "", ""},
	{"PUT", "/machine-config", `{"vcpu_count":2,"mem_size_mib":128}`, "", tooLate},
	{"PATCH", "/machine-config", `{"vcpu_count":1,"mem_size_mib":256}`, "", tooLate},
	{"PUT", "/boot-source", `{"kernel_image_path":"K","initrd_path":"I","boot_args":"` + qemutest.BootArgs + `"}`, "", tooLate},
	{"PUT", "/drives/d", `{"drive_id":"d","is_root_device":false,"path_on_host":"D"}`, "", tooLate},
	{"PATCH", "/drives/d", `{"drive_id":"d","path_on_host":"D"}`, tooEarly, ""},
	{"PUT", "/network-interfaces/n", `{"iface_id":"n","host_dev_name":"tap0"}`, "", tooLate},
	{"PATCH", "/network-interfaces/n", `{"iface_id":"n"}`, tooEarly, unbuilt},
	{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"V"}`, "", tooLate},
	{"PUT", "/entropy", `{}`, "", tooLate},
	{"PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":1}`, "", tooLate},
	{"GET", "/balloon", "", "", ""},
	{"PATCH", "/balloon", `{"amount_mib":1}`, tooEarly, ""},
	{"GET", "/balloon/statistics", "", tooEarly, ""},
	{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":2}`, tooEarly, ""},
	{"PATCH", "/balloon/hinting/start", `{}`, unbuilt, unbuilt},
	{"GET", "/balloon/hinting/status", "", unbuilt, unbuilt},
	{"PATCH", "/balloon/hinting/stop", `{}`, unbuilt, unbuilt},
	{"PUT", "/serial", `{"serial_out_path":"console"}`, "", tooLate},
	{"PUT", "/logger", `{"log_path":"log"}`, "", tooLate},
	{"PUT", "/metrics", `{"metrics_path":"metrics"}`, "", tooLate},
	{"PUT", "/cpu-config", `{}`, unbuilt, unbuilt},
	{"PUT", "/pmem/p", `{"id":"p","path_on_host":"D"}`, unbuilt, unbuilt},
	{"PATCH", "/pmem/p", `{"id":"p"}`, unbuilt, unbuilt},
	{"PUT", "/mmds", `{}`, unbuilt, unbuilt},
	{"PATCH", "/mmds", `{}`, unbuilt, unbuilt},
	{"GET", "/mmds", "", unbuilt, unbuilt},
	{"PUT", "/mmds/config", `{"network_interfaces":["n"]}`, unbuilt, unbuilt},
	{"PUT", "/hotplug/memory", `{"total_size_mib":1024}`, unbuilt, unbuilt},
	{"PATCH", "/hotplug/memory", `{"requested_size_mib":1024}`, unbuilt, unbuilt},
	{"GET", "/hotplug/memory", "", unbuilt, unbuilt},
	{"PUT", "/snapshot/create", `{"snapshot_path":"s","mem_file_path":"m"}`, unbuilt, unbuilt},
	{"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}`, unbuilt, unbuilt},
	{"DELETE", "/drives/d", "", unbuilt, unbuilt},
	{"DELETE", "/network-interfaces/n", "", unbuilt, unbuilt},
	{"DELETE", "/pmem/p", "", unbuilt, unbuilt},
	{"PATCH", "/vm", `{"state":"Paused"}`, tooEarly, ""},
	{"PATCH", "/vm", `{"state":"Resumed"}`, tooEarly, ""},
	{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, tooEarly, ""},
	{"PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, tooEarly, ""}, // after the start: ends the guest
	{"PUT", "/actions", `{"action_type":"InstanceStart"}`, "", tooLate},
}

// One VM goes through both phases: in the first the operations that succeed are its configuration,
// the last of them its start.
func TestPhases(t *testing.T) {
	p := serve(t, newNetns())
	paths := strings.NewReplacer(`"K"`, fmt.Sprintf("%q", qemutest.Kernel(t)), `"I"`, fmt.Sprintf("%q", qemutest.Initrd(t)),
		`"D"`, fmt.Sprintf("%q", p.disk(t, "disk", "", 1<<20)), `"V"`, fmt.Sprintf("%q", p.path("v")))
	try := func(t *testing.T, method, path, body, want string) {
		if want != "" {
			if got := p.refused(t, method, path, body); !strings.Contains(got, want) {
				t.Errorf("got %s\nwant %s", got, want)
			}
			return
		}
		success := http.StatusNoContent
		if method == "GET" {
			success = http.StatusOK
		}
		if status, got := p.request(t, method, path, body); status != success || (got == "") != (success == http.StatusNoContent) {
			t.Errorf("got %d %s\nwant %d", status, got, success)
		}
	}
	for _, o := range operations {
		t.Run("before "+o.method+o.path, func(t *testing.T) { try(t, o.method, o.path, paths.Replace(o.body), o.before) })
	}
	// Some need the guest's drivers.
	p.ask(t, "exec")
	until(t, "first balloon statistics", func() bool {
		status, _ := p.request(t, "GET", "/balloon/statistics", "")
		return status == http.StatusOK
	})
	var last struct{ method, path, body, before, after string }
	for _, o := range operations {
		if strings.Contains(o.body, "SendCtrlAltDel") {
			last = o
			continue
		}
		t.Run("after "+o.method+o.path, func(t *testing.T) { try(t, o.method, o.path, paths.Replace(o.body), o.after) })
	}
	t.Run("after "+last.method+last.path, func(t *testing.T) { try(t, last.method, last.path, last.body, last.after) })
	p.exitsCleanly(t, p.path("log"))
}
