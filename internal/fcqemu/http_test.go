package fcqemu

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Bodies are as strict as Firecracker's, whatever the endpoint. No VM is needed: they are looked at
// before the phase is.
func TestBodies(t *testing.T) {
	p := serve(t, nil)
	endpoints := []struct{ method, path, required string }{ // required: a field which cannot be left out
		{"PUT", "/boot-source", "kernel_image_path"},
		{"PUT", "/machine-config", "vcpu_count"},
		{"PATCH", "/machine-config", ""},
		{"PUT", "/drives/a", "drive_id"},
		{"PATCH", "/drives/a", "drive_id"},
		{"PUT", "/network-interfaces/a", "iface_id"},
		{"PUT", "/vsock", "guest_cid"},
		{"PUT", "/entropy", ""},
		{"PUT", "/balloon", "amount_mib"},
		{"PATCH", "/balloon", "amount_mib"},
		{"PATCH", "/balloon/statistics", "stats_polling_interval_s"},
		{"PUT", "/serial", ""},
		{"PUT", "/logger", ""},
		{"PUT", "/metrics", "metrics_path"},
		{"PUT", "/actions", "action_type"},
		{"PATCH", "/vm", "state"},
	}
	for _, e := range endpoints {
		t.Run(e.method+e.path, func(t *testing.T) {
			tests := []struct{ body, want string }{
				{`{"foo":1}`, "unknown field `foo`, expected "},
				{`[]`, "invalid type"},
				{`{"foo`, "EOF"},
				{`{} {}`, "trailing characters"},
				{"", ""},
			}
			if e.required != "" {
				tests = append(tests, struct{ body, want string }{`{}`, "missing field `" + e.required + "` at line 1 column 2"},
					struct{ body, want string }{`{"` + e.required + `":{}}`, "invalid type: "})
			}
			for _, tt := range tests {
				if got := p.refused(t, e.method, e.path, tt.body); !strings.Contains(got, tt.want) {
					t.Errorf("%q: got %s\nwant %s", tt.body, got, tt.want)
				}
			}
		})
	}
	for _, path := range []string{"/", "/version", "/vm/config", "/machine-config", "/balloon"} {
		if got := p.refused(t, "GET", path, "{}"); got != "GET request cannot have a body." {
			t.Errorf("GET %s with a body: %s", path, got)
		}
	}
	large := strings.Repeat(" ", defaultMaxBody)
	if got := p.refused(t, "PUT", "/entropy", large+"{}"); !strings.Contains(got, "Request payload with size 51202 is larger than the limit of 51200 allowed by server.") {
		t.Error(got)
	}
	p.must(t, "PUT", "/entropy", large[2:]+"{}")
	if got := p.refused(t, "PUT", "/entropy", "{}"+large[2:]+"x"); !strings.Contains(got, "larger than the limit") {
		t.Error(got)
	}
}

func TestBodyLimit(t *testing.T) {
	p := serve(t, nil, "--http-api-max-payload-size", "10")
	p.must(t, "PUT", "/entropy", "{       }")
	if got := p.refused(t, "PUT", "/entropy", "{          }"); !strings.Contains(got, "with size 12 is larger than the limit of 10 ") {
		t.Error(got)
	}
}

func TestMachineLimits(t *testing.T) {
	p := serve(t, nil)
	const vcpus, memory = "The number of vCPUs must be greater than 0", "The memory size (MiB) is either 0, or not a multiple"
	tests := []struct{ method, body, want string }{
		{"PUT", `{"vcpu_count":1,"mem_size_mib":1}`, ""},
		{"PUT", `{"vcpu_count":32,"mem_size_mib":128,"smt":true}`, ""},
		{"PUT", `{"vcpu_count":3,"mem_size_mib":128,"cpu_template":"None","huge_pages":"None","track_dirty_pages":false}`, ""},
		{"PATCH", `{"smt":false}`, ""},
		{"PUT", `{"vcpu_count":0,"mem_size_mib":128}`, vcpus},
		{"PUT", `{"vcpu_count":33,"mem_size_mib":128}`, vcpus},
		{"PUT", `{"vcpu_count":256,"mem_size_mib":128}`, "invalid type"},
		{"PATCH", `{"smt":true}`, vcpus},
		{"PUT", `{"vcpu_count":1,"mem_size_mib":0}`, memory},
		{"PUT", `{"vcpu_count":1,"mem_size_mib":3,"huge_pages":"2M"}`, memory},
		{"PUT", `{"vcpu_count":1,"mem_size_mib":-1}`, "invalid type"},
		{"PUT", `{"vcpu_count":1,"mem_size_mib":2,"huge_pages":"2M"}`, unbuilt},
		{"PUT", `{"vcpu_count":1,"mem_size_mib":2,"track_dirty_pages":true}`, unbuilt},
		{"PUT", `{"vcpu_count":1,"mem_size_mib":2,"cpu_template":"T2"}`, unbuilt},
		{"PUT", `{"vcpu_count":1,"mem_size_mib":2,"cpu_template":"T3"}`, "unknown variant `T3`"},
		{"PATCH", `{}`, "Empty PATCH request."},
	}
	for _, tt := range tests {
		if tt.want == "" {
			p.must(t, tt.method, "/machine-config", tt.body)
		} else if got := p.refused(t, tt.method, "/machine-config", tt.body); !strings.Contains(got, tt.want) {
			t.Errorf("%s %s: got %s\nwant %s", tt.method, tt.body, got, tt.want)
		}
	}
	// What was refused has changed nothing.
	if got, want := strings.TrimSpace(p.must(t, "GET", "/machine-config", "")), `{"vcpu_count":3,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func compareJSON(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Firecracker's own test_get_full_config compares the whole object too: what is not set is null or
// empty, never absent.
func TestFullConfig(t *testing.T) {
	p := serve(t, newNetns(), "--level", "Debug")
	const machine = `{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}`
	compareJSON(t, p.must(t, "GET", "/vm/config", ""), `{"balloon":null,"boot-source":null,"cpu-config":null,"drives":[],"entropy":null,
		"logger":{"log_path":null,"level":"Debug","show_level":null,"show_log_origin":null,"module":null},
		"machine-config":`+machine+`,"memory-hotplug":null,"metrics":null,"mmds-config":null,"network-interfaces":[],"pmem":[],"vsock":null}`)

	p.disk(t, "disk", "", 4096)
	const limiter = `{"bandwidth":{"size":1000,"one_time_burst":5,"refill_time":100},"ops":{"size":10,"one_time_burst":null,"refill_time":200}}`
	for path, body := range map[string]string{
		"/machine-config":       `{"vcpu_count":2,"mem_size_mib":512,"smt":true}`,
		"/boot-source":          `{"kernel_image_path":"disk","initrd_path":"disk","boot_args":"quiet"}`,
		"/drives/root":          `{"drive_id":"root","partuuid":"0eaa91a0-01","is_root_device":true,"cache_type":"Writeback","is_read_only":true,"path_on_host":"disk","io_engine":"Async","rate_limiter":` + limiter + `}`,
		"/network-interfaces/n": `{"iface_id":"n","host_dev_name":"tap0","guest_mac":"06:00:AC:10:00:02","mtu":1400}`,
		"/vsock":                `{"guest_cid":7,"uds_path":"v"}`,
		"/balloon":              `{"amount_mib":3,"deflate_on_oom":true,"stats_polling_interval_s":9,"free_page_reporting":true}`,
		"/entropy":              `{"rate_limiter":{"bandwidth":{"size":1000,"refill_time":100}}}`,
		"/logger":               `{"log_path":"log","level":"Info","show_level":true,"show_log_origin":false,"module":"x"}`,
		"/metrics":              `{"metrics_path":"metrics"}`,
		"/serial":               `{"serial_out_path":"console"}`,
	} {
		p.must(t, "PUT", path, body)
	}
	compareJSON(t, p.must(t, "GET", "/vm/config", ""), `{
		"machine-config":{"vcpu_count":2,"mem_size_mib":512,"smt":true,"track_dirty_pages":false,"huge_pages":"None"},
		"boot-source":{"kernel_image_path":"disk","initrd_path":"disk","boot_args":"quiet"},
		"drives":[{"drive_id":"root","partuuid":"0eaa91a0-01","is_root_device":true,"cache_type":"Writeback","is_read_only":true,"path_on_host":"disk","io_engine":"Async","socket":null,"rate_limiter":`+limiter+`}],
		"network-interfaces":[{"iface_id":"n","host_dev_name":"tap0","guest_mac":"06:00:ac:10:00:02","mtu":1400,"rx_rate_limiter":null,"tx_rate_limiter":null}],
		"vsock":{"guest_cid":7,"uds_path":"v"},
		"balloon":{"amount_mib":3,"deflate_on_oom":true,"stats_polling_interval_s":9,"free_page_hinting":false,"free_page_reporting":true},
		"entropy":{"rate_limiter":{"bandwidth":{"size":1000,"one_time_burst":null,"refill_time":100},"ops":null}},
		"logger":{"log_path":"log","level":"Info","show_level":true,"show_log_origin":false,"module":"x"},
		"metrics":{"metrics_path":"metrics"},
		"cpu-config":null,"memory-hotplug":null,"mmds-config":null,"pmem":[]}`)
}

// micro-http holds ten connections; it answers the eleventh and closes it. One that ends makes
// room.
func TestTooManyConnections(t *testing.T) {
	p := serve(t, nil)
	p.client.CloseIdleConnections()
	get := func(conn net.Conn) (*http.Response, error) {
		// a connection that was turned away may be closed already
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		return http.ReadResponse(bufio.NewReader(conn), nil)
	}
	dial := func() (net.Conn, *http.Response) {
		conn, err := net.Dial("unix", p.path("api"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		answer, err := get(conn)
		if err != nil {
			t.Fatal(err)
		}
		return conn, answer
	}
	var held []net.Conn
	until(t, "hold ten connections", func() bool { // the client's idle one may still count
		conn, answer := dial()
		if answer.StatusCode == http.StatusOK {
			held = append(held, conn)
		}
		return len(held) == 10
	})
	_, answer := dial()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusServiceUnavailable || string(body) != `{ "error": "Too many open connections" }` {
		t.Errorf("the eleventh connection: %d %s %v", answer.StatusCode, body, err)
	}
	if answer, err := get(held[0]); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("the first connection: %v", err)
	}
	held[0].Close()
	until(t, "a place for another connection", func() bool {
		_, answer := dial()
		return answer.StatusCode == http.StatusOK
	})
}

func TestLogLevels(t *testing.T) {
	for level, want := range map[string][3]bool{ // which of error, warning and info are written
		"Off": {}, "Error": {true}, "warning": {true, true}, "Info": {true, true, true}, "TRACE": {true, true, true},
	} {
		t.Run(level, func(t *testing.T) {
			p := serve(t, nil, "--id", "x-1")
			p.must(t, "PUT", "/logger", `{"log_path":"log","level":"`+level+`","show_level":true}`)
			p.refused(t, "GET", "/nope", "")
			p.must(t, "PUT", "/vsock", `{"guest_cid":3,"uds_path":"v","vsock_id":"old"}`)
			content, err := os.ReadFile(p.path("log"))
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range []string{
				" [x-1:main:ERROR] Received Error. Status code: 400 Bad Request. Message: Invalid request method and/or path: GET nope.\n",
				" [x-1:main:WARN] PUT /vsock: vsock_id field is deprecated.\n",
				" [x-1:main:INFO] The API server received a GET request on \"/nope\".\n",
			} {
				if got := strings.Contains(string(content), text); got != want[i] {
					t.Errorf("%q is in the log: %t, want %t", text, got, want[i])
				}
			}
		})
	}
}
