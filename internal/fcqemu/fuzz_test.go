package fcqemu

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// Whatever is asked before the start, of an API whose files do not exist, comes to 200, 204 or a
// 400 with a fault_message, and a refusal changes nothing that GET shows.
func FuzzRequest(f *testing.F) {
	for _, o := range operations {
		f.Add(o.method, o.path, o.body)
	}
	for _, path := range []string{"", "//", "/drives//", "/drives/%2e%2e/x", "/machine-config/x/y", "/balloon/hinting", "/vm/config/", "/\x00"} {
		f.Add("PUT", path, `{}`)
		f.Add("GET", path, "")
	}
	f.Fuzz(func(t *testing.T, method, path, body string) {
		for _, key := range []string{"_path", "host_dev_name"} { // nothing is to be opened or made
			if strings.Contains(body, key) || strings.Contains(body, `\u`) {
				return
			}
		}
		v := newVMM(t.Context(), "fuzz", newLogHandler("fuzz", discard{}))
		defer v.close()
		before := shown(t, v)
		r, err := v.request(method, path, []byte(body))
		if v.state != stateNotStarted {
			t.Errorf("%s %s started something", method, path)
		}
		if err != nil && (err.Error() == "" || r.body != nil) {
			t.Errorf("%s %s: the error %q comes with %v", method, path, err, r.body)
		}
		if after := shown(t, v); err != nil && after != before {
			t.Errorf("%s %s %s was refused, and has changed\n%s to\n%s", method, path, body, before, after)
		}
	})
}

func shown(t *testing.T, v *vmm) string {
	t.Helper()
	r, err := v.request(http.MethodGet, "/vm/config", nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(r.body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// What the file says is applied or refused; a configuration that is applied shows what it was, and
// applying what is shown comes to the same.
func FuzzConfigFile(f *testing.F) {
	for _, config := range []string{
		`{"boot-source":{"kernel_image_path":"/dev/null"},"drives":[]}`,
		`{"boot-source":{"kernel_image_path":"/dev/null","boot_args":"a b"},"drives":[],"machine-config":{"vcpu_count":2,"mem_size_mib":64,"smt":true},"entropy":{},"balloon":{"amount_mib":1,"deflate_on_oom":true}}`,
		`{"boot-source":{"kernel_image_path":"/dev/null"},"drives":[{"drive_id":"a","is_root_device":true}],"network-interfaces":[{"iface_id":"x","host_dev_name":"-"}]}`,
		`{"boot-source":null,"drives":null,"pmem":[1],"cpu-config":"x"}`,
		`{"entropy":{"rate_limiter":{"bandwidth":{"size":1,"refill_time":0},"ops":null}},"boot-source":{"kernel_image_path":"/dev/null"},"drives":[]}`,
	} {
		f.Add(config)
	}
	apply := func(t *testing.T, content string) (string, error) {
		v := newVMM(t.Context(), "fuzz", newLogHandler("fuzz", discard{}))
		defer v.close()
		if err := v.apply([]byte(content)); err != nil {
			return "", err
		}
		return shown(t, v), nil
	}
	f.Fuzz(func(t *testing.T, content string) {
		// Logs, metrics, sockets and taps would be made; files other than this one opened.
		rest := strings.ReplaceAll(content, `"kernel_image_path":"/dev/null"`, "")
		for _, key := range []string{"_path", "host_dev_name", "\\"} {
			if strings.Contains(rest, key) {
				return
			}
		}
		first, err := apply(t, content)
		if err != nil {
			return
		}
		second, err := apply(t, first)
		if err != nil || first != second {
			t.Errorf("%s\nis shown as %s\nwhich comes to %s, %v", content, first, second, err)
		}
	})
}
