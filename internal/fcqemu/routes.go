package fcqemu

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A response is what a request comes to: 200 with body, or 204 without.
type response struct {
	body       any
	deprecated string // what was deprecated in the request
}

// errID is Firecracker's text for a path and body that name different things.
var errID = errors.New("The id from the path does not match the id from the body!")

// request runs one request. The caller is the only one at a time.
func (v *vmm) request(method, path string, body []byte) (response, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	segments := strings.Split(strings.Trim(path, "/"), "/")
	id := ""
	if len(segments) > 1 {
		id = segments[1]
	}
	switch {
	case method == "GET" && len(body) > 0:
		return response{}, errors.New("GET request cannot have a body.")
	case method == "GET":
		return v.get(strings.Join(segments, "/"), segments[0])
	case method == "DELETE":
		return response{}, unsupported("hot-unplug")
	case len(body) == 0 && (method == "PUT" || method == "PATCH" && segments[0] != "balloon"):
		return response{}, fmt.Errorf("Empty %s request.", method)
	case method == "PUT":
		return v.put(segments[0], id, body)
	case method == "PATCH":
		return v.patch(segments[0], strings.Join(segments, "/"), id, body)
	}
	return response{}, invalidPath(method, segments[0])
}

func invalidPath(method, segment string) error {
	return fmt.Errorf("Invalid request method and/or path: %s %s.", method, segment)
}

func (v *vmm) get(path, segment string) (response, error) {
	switch path {
	case "":
		v.metrics.add("get_api_requests instance_info_count", 1)
		return response{body: v.info()}, nil
	case "version":
		v.metrics.add("get_api_requests vmm_version_count", 1)
		return response{body: map[string]string{"firecracker_version": Version}}, nil
	case "vm/config":
		return response{body: v.fullConfig()}, nil
	case "machine-config":
		v.metrics.add("get_api_requests machine_cfg_count", 1)
		return response{body: v.machine}, nil
	case "balloon":
		if v.balloon == nil {
			return response{}, errNoBalloon
		}
		return response{body: *v.balloon}, nil
	case "balloon/statistics":
		if err := v.postBoot(); err != nil {
			return response{}, err
		}
		stats, err := v.balloonStats()
		return response{body: stats}, err
	case "balloon/hinting/status":
		return response{}, unsupported("free page hinting")
	case "mmds":
		return response{}, unsupported("MMDS")
	case "hotplug/memory":
		return response{}, unsupported("memory hotplug")
	}
	return response{}, invalidPath("GET", segment)
}

func (v *vmm) put(segment, id string, body []byte) (response, error) {
	switch segment {
	case "boot-source":
		return configure(v, "boot_source", body, v.putBootSource)
	case "machine-config":
		r, err := configure(v, "machine_cfg", body, v.putMachineConfig)
		r.deprecated = deprecatedTemplate("PUT", body)
		return r, err
	case "drives":
		return configure(v, "drive", body, func(c drive) error { return withID(id, c.DriveID, c, v.putDrive) })
	case "network-interfaces":
		return configure(v, "network", body, func(c networkInterface) error { return withID(id, c.IfaceID, c, v.putNetworkInterface) })
	case "vsock":
		r, err := configure(v, "vsock", body, v.putVsock)
		if has(body, "vsock_id") {
			r.deprecated = "PUT /vsock: vsock_id field is deprecated."
		}
		return r, err
	case "entropy":
		return configure(v, "entropy", body, v.putEntropy)
	case "balloon":
		return configure(v, "balloon", body, v.putBalloon)
	case "serial":
		return configure(v, "serial", body, v.putSerial)
	case "logger":
		return configure(v, "logger", body, v.putLogger)
	case "metrics":
		return configure(v, "metrics", body, v.putMetrics)
	case "actions":
		return response{}, v.act(body)
	case "cpu-config":
		return response{}, unsupported("cpu-config")
	case "mmds":
		return response{}, unsupported("MMDS")
	case "pmem":
		return response{}, unsupported("pmem")
	case "hotplug":
		return response{}, unsupported("memory hotplug")
	case "snapshot":
		return response{}, unsupported("a snapshot")
	}
	return response{}, invalidPath("PUT", segment)
}

// configure decodes body for handle, which is for before the start only.
func configure[T any](v *vmm, metric string, body []byte, handle func(T) error) (response, error) {
	var c T
	v.metrics.add("put_api_requests "+metric+"_count", 1)
	err := decode(body, &c)
	if err == nil {
		err = v.preBoot()
	}
	if err == nil {
		err = handle(c)
	}
	if err != nil {
		v.metrics.add("put_api_requests "+metric+"_fails", 1)
	}
	return response{}, err
}

// withID refuses a name that is not allowed, or not the same in path and body.
func withID[T any](inPath, inBody string, c T, handle func(T) error) error {
	if inPath == "" || inBody == "" {
		return errors.New("The ID cannot be empty.")
	}
	for _, r := range inPath {
		if r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return errors.New("API Resource IDs can only contain alphanumeric characters and underscores.")
		}
	}
	if inPath != inBody {
		return errID
	}
	return handle(c)
}

func has(body []byte, field string) bool {
	fields, err := members(body)
	if err != nil {
		return false
	}
	for _, f := range fields {
		if f.name == field {
			return true
		}
	}
	return false
}

func deprecatedTemplate(method string, body []byte) string {
	if !has(body, "cpu_template") {
		return ""
	}
	return method + " /machine-config: cpu_template field is deprecated."
}

func (v *vmm) patch(segment, path, id string, body []byte) (response, error) {
	switch {
	case segment == "machine-config":
		var p machineConfigPatch
		v.metrics.add("patch_api_requests machine_cfg_count", 1)
		err := decode(body, &p)
		if err == nil {
			err = v.preBoot()
		}
		if err == nil {
			err = v.patchMachineConfig(p)
		}
		if err != nil {
			v.metrics.add("patch_api_requests machine_cfg_fails", 1)
		}
		return response{deprecated: deprecatedTemplate("PATCH", body)}, err
	case segment == "drives":
		v.metrics.add("patch_api_requests drive_count", 1)
		err := change(v, body, func(p drivePatch) error { return withID(id, p.DriveID, p, v.patchDrive) })
		if err != nil {
			v.metrics.add("patch_api_requests drive_fails", 1)
		}
		return response{}, err
	case path == "vm":
		return response{}, change(v, body, func(s vmState) error { return v.setState(s.State) })
	case path == "balloon":
		return response{}, change(v, body, v.patchBalloon)
	case path == "balloon/statistics":
		return response{}, change(v, body, v.patchBalloonStats)
	case path == "balloon/hinting/start", path == "balloon/hinting/stop":
		return response{}, unsupported("free page hinting")
	case segment == "network-interfaces":
		if err := v.postBoot(); err != nil {
			return response{}, err
		}
		return response{}, unsupported("a network rate limiter")
	case segment == "mmds":
		return response{}, unsupported("MMDS")
	case segment == "pmem":
		return response{}, unsupported("pmem")
	case path == "hotplug/memory":
		return response{}, unsupported("memory hotplug")
	}
	return response{}, invalidPath("PATCH", segment)
}

// change decodes body for handle, which needs a guest.
func change[T any](v *vmm, body []byte, handle func(T) error) error {
	var c T
	if err := decode(body, &c); err != nil {
		return err
	}
	if err := v.postBoot(); err != nil {
		return err
	}
	return handle(c)
}

func (v *vmm) act(body []byte) error {
	v.metrics.add("put_api_requests actions_count", 1)
	err := v.actOn(body)
	if err != nil {
		v.metrics.add("put_api_requests actions_fails", 1)
	}
	return err
}

func (v *vmm) actOn(body []byte) error {
	var a action
	if err := decode(body, &a); err != nil {
		return err
	}
	if a.ActionType == "InstanceStart" {
		if err := v.preBoot(); err != nil {
			return err
		}
		return v.start()
	}
	if err := v.postBoot(); err != nil {
		return err
	}
	if a.ActionType == "SendCtrlAltDel" {
		return v.sendCtrlAltDel()
	}
	if err := v.metrics.flush(time.Now()); err != nil {
		return fmt.Errorf("Internal VMM error: %w", err)
	}
	return nil
}
