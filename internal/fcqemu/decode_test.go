package fcqemu

import (
	"strings"
	"testing"
)

// The wanted texts are those which Firecracker's own tests match
// (tests/integration_tests/functional/test_api.py).
func TestDecodeErrors(t *testing.T) {
	tests := []struct {
		name, body string
		into       any
		want       string
	}{
		{"missing field", `{"mem_size_mib": 128}`, &machineConfig{}, "missing field `vcpu_count` at line 1 column 21."},
		{"other missing field", `{"vcpu_count": 2}`, &machineConfig{}, "missing field `mem_size_mib` at line 1 column 17."},
		{"unknown field", `{"drive_id":"a","is_read_only":true}`, &drivePatch{}, "unknown field `is_read_only`, expected one of `drive_id`, `path_on_host`, `rate_limiter`"},
		{"nested unknown field", `{"drive_id":"a","rate_limiter":{"x":1}}`, &drivePatch{}, "unknown field `x`, expected `bandwidth` or `ops`"},
		{"unknown variant", `{"action_type":"foo"}`, &action{}, "unknown variant `foo`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel`"},
		{"string for number", `{"vcpu_count":"-2","mem_size_mib":1}`, &machineConfig{}, "invalid type: string"},
		{"too large", `{"vcpu_count":1,"mem_size_mib":18446744073709551616}`, &machineConfig{}, "deserializing the json body of a request: invalid type"},
		{"negative", `{"vcpu_count":-1,"mem_size_mib":1}`, &machineConfig{}, "invalid type"},
		{"twice", `{"vcpu_count":1,"vcpu_count":1}`, &machineConfig{}, "duplicate field `vcpu_count`"},
		{"null for required", `{"vcpu_count":null,"mem_size_mib":1}`, &machineConfig{}, "invalid type: null"},
		{"cut", `{"vcpu_count":1`, &machineConfig{}, "EOF while parsing an object at line 1 column 15."},
		{"behind the end", `{"state":"Paused"} x`, &vmState{}, "trailing characters"},
		{"no object", `[]`, &vmState{}, "expected an object"},
		{"no JSON", `x`, &vmState{}, "at line 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := decode([]byte(tt.body), tt.into)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant an error with %s", err, tt.want)
			}
		})
	}
}

func TestDecode(t *testing.T) {
	var d drive
	body := `{"drive_id":"a","is_root_device":false,"path_on_host":"/x","partuuid":null,"rate_limiter":{"ops":{"size":1,"refill_time":2}}}`
	if err := decode([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	if *d.PathOnHost != "/x" || d.PartUUID != nil || d.RateLimiter.Ops.RefillTime != 2 || d.RateLimiter.Bandwidth != nil {
		t.Errorf("got %+v", d)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"boot-source":{"kernel_image_path":"/k"},"drives":[{"drive_id":"a","is_root_device":true}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var c vmConfig
		decode(body, &c)
	})
}

func TestReadConnect(t *testing.T) {
	tests := []struct {
		in   string
		port uint32
		ok   bool
	}{
		{"CONNECT 52\nrest", 52, true},
		{"connect 4294967295\n", 4294967295, true},
		{"CONNECT 4294967296\n", 0, false},
		{"CONNECT\n", 0, false},
		{"HELLO 52\n", 0, false},
		{"CONNECT 52", 0, false},
		{"CONNECT " + strings.Repeat("0", 40) + "\n", 0, false},
	}
	for _, tt := range tests {
		r := strings.NewReader(tt.in)
		port, err := readConnect(r)
		if port != tt.port || (err == nil) != tt.ok {
			t.Errorf("%q: got %d, %v", tt.in, port, err)
		}
		if tt.ok && strings.HasSuffix(tt.in, "rest") && r.Len() != 4 {
			t.Errorf("%q: %d bytes left, want the 4 behind the line", tt.in, r.Len())
		}
	}
}

func FuzzReadConnect(f *testing.F) {
	f.Add("CONNECT 52\n")
	f.Fuzz(func(t *testing.T, in string) { readConnect(strings.NewReader(in)) })
}
