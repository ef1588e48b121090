package openapi

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"banger/api"
)

// notAsked are the operations that no test here sees succeed, and why.
var notAsked = map[string]string{
	"BuildImage": "a build takes minutes in a guest; its refusals are judged, and its events are of the same kind as CreateMachine's",
	"BuildLog":   "there is none without a build; its refusals are judged",
}

// TestAnswers asks for every operation over the socket, as a client in another language would,
// first without a guest and then with one. Each request and each answer is judged.
func TestAnswers(t *testing.T) {
	h := newHome(t)
	for _, part := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"Host", h.testHost}, {"Machines", h.testMachines}, {"Stopped", h.testStopped},
		{"Images", h.testImages}, {"Kernels", h.testKernels}, {"Running", h.testRunning}, {"Replaced", h.testReplaced},
	} {
		t.Run(part.name, part.do)
	}
	for _, op := range api.Operations {
		name := op.Describe().Name
		if _, excused := notAsked[name]; excused == h.asked[name] {
			t.Errorf("%s was answered: %t, excused: %t", name, h.asked[name], excused)
		}
	}
}

// askAll makes calls one after the other.
func (h *home) askAll(t *testing.T, calls []call) {
	t.Helper()
	for _, c := range calls {
		h.ask(t, c)
	}
}

func (h *home) testHost(t *testing.T) {
	h.askAll(t, []call{
		{op: api.OpStatus, path: "/v1/daemon"},
		{op: api.OpStatus, path: "/v1/daemon?nonsense=1", code: api.CodeInvalid},
		{op: api.OpDoctor, path: "/v1/doctor"},
		{op: api.OpStopDaemon, path: "/v1/daemon/stop", body: `{"drain":"yes"}`, code: api.CodeInvalid},
	})
	if document := h.ask(t, call{op: api.OpOpenAPI, path: "/v1/openapi.json"}); !bytes.Equal(document, api.OpenAPI) {
		t.Errorf("the daemon's own document has %d bytes, the committed one %d", len(document), len(api.OpenAPI))
	}
}

func (h *home) testMachines(t *testing.T) {
	create := func(body string, code api.Code) call {
		return call{op: api.OpCreateMachine, path: "/v1/machines", body: body, code: code}
	}
	forward := func(body string, code api.Code) call {
		return call{op: api.OpAddForward, path: "/v1/machines/web/forwards", body: body, code: code}
	}
	noForward := func(query string, code api.Code) call {
		return call{op: api.OpRemoveForward, path: "/v1/machines/web/forwards" + query, code: code}
	}
	services := func(body string, code api.Code) call {
		return call{op: api.OpSetHostServices, path: "/v1/machines/web/host-services", body: body, code: code}
	}
	h.askAll(t, []call{
		{op: api.OpMachines, path: "/v1/machines"},
		{op: api.OpMachine, path: "/v1/machines/web", code: api.CodeNotFound},
		create(`{"name":"Bad"}`, api.CodeInvalid),
		create(`{"name":"web","nonsense":1}`, api.CodeInvalid),
		create(`{"name":"web"} {}`, api.CodeInvalid),
		create(`[]`, api.CodeInvalid),
		create(`{"name":"web","network":"nonsense"}`, api.CodeInvalid),
		create(`{"name":"web","cpus":1000}`, api.CodeInvalid),
		create(`{"name":"web","image":"nosuch"}`, api.CodeNotFound),
		create(
			`{"name":"web","env":["A=b"],"host_services":[65001],"forwards":[{"guest_port":80},{"protocol":"udp","host":"127.0.0.1","host_port":0,"guest_port":53}],"memory_mib":512}`,
			"",
		),
		create(`{"name":"web"}`, api.CodeConflict),
		create(`{"name":"plain","network":"none"}`, ""),
		{op: api.OpMachines, path: "/v1/machines"},
		{op: api.OpMachine, path: "/v1/machines/web"},
		{op: api.OpMachine, path: "/v1/machines/plain"},
		{op: api.OpSetNAT, path: "/v1/machines/web/nat", body: `{"on":true}`},
		{op: api.OpSetNAT, path: "/v1/machines/web/nat", body: `{"on":false}`},
		{op: api.OpSetNAT, path: "/v1/machines/web/nat", body: `{"on":1}`, code: api.CodeInvalid},
		{op: api.OpSetNAT, path: "/v1/machines/nosuch/nat", body: `{"on":true}`, code: api.CodeNotFound},
		services(`{"ports":[65001,65002]}`, ""), services(`{"ports":[]}`, ""), services(`{"ports":[0]}`, api.CodeInvalid),
		forward(`{"host":"127.0.0.2","host_port":65003,"guest_port":80}`, ""),
		forward(`{"host":"127.0.0.2","host_port":65003,"guest_port":81}`, api.CodeConflict),
		forward(`{"guest_port":0}`, api.CodeInvalid),
		forward(`{"host":"nonsense","guest_port":80}`, api.CodeInvalid),
		forward(`{"protocol":"icmp","guest_port":80}`, api.CodeInvalid),
		noForward("?host=127.0.0.2&host_port=65003", ""),
		noForward("?host=127.0.0.2&host_port=65003", api.CodeNotFound),
		noForward("?host_port=x", api.CodeInvalid),
		noForward("?host=x&host_port=1", api.CodeInvalid),
		noForward("?nonsense=1", api.CodeInvalid),
	})
}

// testStopped asks a machine that was never started for what only a running one can do.
func (h *home) testStopped(t *testing.T) {
	h.askAll(t, []call{
		{op: api.OpLogs, path: "/v1/machines/web/logs", code: api.CodeConflict},
		{op: api.OpLogs, path: "/v1/machines/web/logs?follow=maybe", code: api.CodeInvalid},
		{op: api.OpPorts, path: "/v1/machines/web/ports", code: api.CodeConflict},
		{op: api.OpStatsMachine, path: "/v1/machines/web/stats", code: api.CodeConflict},
		{op: api.OpPrepareSSH, path: "/v1/machines/web/ssh", body: `{}`, code: api.CodeConflict},
		{op: api.OpReadFiles, path: "/v1/machines/web/files?path=/etc", code: api.CodeConflict},
		{op: api.OpWriteFiles, path: "/v1/machines/web/files?path=/etc", body: "no tar", code: api.CodeConflict},
		{op: api.OpExec, path: "/v1/machines/web/exec", body: `{"argv":["true"]}`, code: api.CodeConflict},
		{op: api.OpKillMachine, path: "/v1/machines/web/kill", body: `{}`, code: api.CodeConflict},
		{op: api.OpKillMachine, path: "/v1/machines/web/kill", body: `{"signal":"NONE"}`, code: api.CodeInvalid},
		{op: api.OpStopMachine, path: "/v1/machines/web/stop", body: `{}`},
		{op: api.OpStopMachine, path: "/v1/machines/web/stop", body: `{"timeout_ms":-1}`, code: api.CodeInvalid},
		{op: api.OpStartMachine, path: "/v1/machines/web/start", body: `{"boot_timeout_ms":-1}`, code: api.CodeInvalid},
		{op: api.OpRestartMachine, path: "/v1/machines/nosuch/restart", code: api.CodeNotFound},
		{op: api.OpWaitMachine, path: "/v1/machines/web/wait?for=stopped"},
		{op: api.OpWaitMachine, path: "/v1/machines/web/wait?for=nonsense", code: api.CodeInvalid},
		{op: api.OpLeaseMachine, path: "/v1/machines/nosuch/lease", code: api.CodeNotFound},
		{op: api.OpRun, path: "/v1/machines/run", body: `{"machine":{},"wait":"stopped","nonsense":1}`, code: api.CodeInvalid},
	})
}

func (h *home) testImages(t *testing.T) {
	files := filepath.Join(h.dir, "files.tar")
	if err := os.WriteFile(files, smallTar(t), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(h.dir, "disk.ext4")
	if out, err := exec.Command("mkfs.ext4", "-q", "-L", "mine", disk, "4M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	pull := func(body string, code api.Code) call {
		return call{op: api.OpPullImage, path: "/v1/images/pull", body: body, code: code}
	}
	h.askAll(t, []call{
		{op: api.OpImages, path: "/v1/images"},
		{op: api.OpImage, path: "/v1/images/debian:trixie"},
		{op: api.OpImage, path: "/v1/images/nosuch", code: api.CodeNotFound},
		{op: api.OpRemoveImage, path: "/v1/images/nosuch", code: api.CodeNotFound},
		{op: api.OpRemoveImage, path: "/v1/images/debian:trixie", code: api.CodeConflict},
		{op: api.OpTagImage, path: "/v1/images/debian:trixie/tags", body: `{"name":"mine"}`},
		{op: api.OpTagImage, path: "/v1/images/mine/tags", body: `{"name":""}`, code: api.CodeInvalid},
		{op: api.OpRemoveImage, path: "/v1/images/mine"},
		{op: api.OpPromoteImage, path: "/v1/images/debian:trixie/promote", code: api.CodeConflict},
		pull(`{"source":"nonsense"}`, api.CodeUnsupported), pull(`{"source":1}`, api.CodeInvalid),
		pull(fmt.Sprintf(`{"source":"tar:%s","name":"small"}`, files), ""),
		{
			op:   api.OpRegisterImage,
			path: "/v1/images/register",
			body: `{"name":"raw","rootfs":"nowhere"}`,
			code: api.CodeInvalid,
		},
		{op: api.OpRegisterImage, path: "/v1/images/register", body: fmt.Sprintf(`{"name":"raw","rootfs":%q}`, disk)},
		{op: api.OpImage, path: "/v1/images/raw"},
		{op: api.OpPromoteImage, path: "/v1/images/raw/promote"},
		{op: api.OpSaveImage, path: "/v1/images/nosuch/archive", code: api.CodeNotFound},
		{op: api.OpLoadImage, path: "/v1/images/load", body: "no archive", code: api.CodeInvalid},
		{op: api.OpBuildImage, path: "/v1/images/build", body: `{"name":"x","preset":"nonsense"}`, code: api.CodeInvalid},
		{
			op:   api.OpBuildImage,
			path: "/v1/images/build",
			body: `{"name":"x","sources":{"nonsense":"x"}}`,
			code: api.CodeInvalid,
		},
		{op: api.OpBuildLog, path: "/v1/images/builds/nosuch/log", code: api.CodeNotFound},
	})
	archive := h.ask(t, call{op: api.OpSaveImage, path: "/v1/images/small/archive"})
	h.askAll(t, []call{
		{op: api.OpRemoveImage, path: "/v1/images/small"},
		{op: api.OpLoadImage, path: "/v1/images/load?name=again", body: string(archive)},
		{op: api.OpImages, path: "/v1/images"},
		{op: api.OpPruneImages, path: "/v1/images/prune?dry_run=true"},
		{op: api.OpPruneImages, path: "/v1/images/prune?dry_run=perhaps", code: api.CodeInvalid},
		{op: api.OpPruneImages, path: "/v1/images/prune"},
	})
}

// smallTar is a root filesystem with one file.
func smallTar(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: 6}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (h *home) testKernels(t *testing.T) {
	var kernel api.Kernel
	if err := json.Unmarshal(h.ask(t, call{op: api.OpKernel, path: "/v1/kernels/debian:trixie"}), &kernel); err != nil {
		t.Fatal(err)
	}
	h.askAll(t, []call{
		{op: api.OpKernels, path: "/v1/kernels"},
		{op: api.OpKernel, path: "/v1/kernels/nosuch", code: api.CodeNotFound},
		{op: api.OpRemoveKernel, path: "/v1/kernels/nosuch", code: api.CodeNotFound},
		{op: api.OpRemoveKernel, path: "/v1/kernels/debian:trixie", code: api.CodeConflict},
		{op: api.OpPullKernel, path: "/v1/kernels", body: `{"source":"nonsense"}`, code: api.CodeInvalid},
		{op: api.OpPullKernel, path: "/v1/kernels", body: `{"source":"debian:trixie"}`},
		{op: api.OpImportKernel, path: "/v1/kernels/import", body: `{"vmlinux":"/x"}`, code: api.CodeInvalid},
		{
			op:   api.OpImportKernel,
			path: "/v1/kernels/import",
			body: fmt.Sprintf(`{"name":"own","vmlinux":%q}`, filepath.Join(kernel.Dir, "vmlinux")),
		},
		{op: api.OpPruneKernels, path: "/v1/kernels/prune?dry_run=true"},
		{op: api.OpRemoveKernel, path: "/v1/kernels/own"},
		{op: api.OpPruneKernels, path: "/v1/kernels/prune"},
	})
}

func (h *home) testRunning(t *testing.T) {
	h.ask(t, call{op: api.OpStartMachine, path: "/v1/machines/web/start", body: `{"boot_timeout_ms":1}`, code: api.CodeTimeout})
	h.askAll(t, []call{
		{op: api.OpStartMachine, path: "/v1/machines/web/start", body: `{"boot_timeout_ms":120000}`},
		{op: api.OpMachine, path: "/v1/machines/web"},
		{op: api.OpWaitMachine, path: "/v1/machines/web/wait?for=running"},
		{op: api.OpWaitMachine, path: "/v1/machines/web/wait?for=booted"},
		{op: api.OpStatsMachine, path: "/v1/machines/web/stats"},
		{op: api.OpPorts, path: "/v1/machines/web/ports"},
		{op: api.OpPrepareSSH, path: "/v1/machines/web/ssh", body: `{}`},
		{op: api.OpLogs, path: "/v1/machines/web/logs"},
		{op: api.OpReadFiles, path: "/v1/machines/web/files?path=/etc/hostname"},
		{op: api.OpReadFiles, path: "/v1/machines/web/files?path=/nowhere", code: api.CodeNotFound},
		{op: api.OpWriteFiles, path: "/v1/machines/web/files?path=/root", body: string(smallTar(t))},
		{op: api.OpRemoveMachine, path: "/v1/machines/web", code: api.CodeConflict},
	})
	frames := h.converse(
		t,
		call{op: api.OpExec, path: "/v1/machines/web/exec", body: `{"argv":["cat","/root/hello"],"env":["A=b"]}`},
	)
	if len(frames) != 2 || string(frames[0].Payload) != "hello\n" || string(frames[1].Payload) != `{"code":0}` {
		t.Errorf("exec gives %+v", frames)
	}
	h.askAll(t, []call{
		{op: api.OpRestartMachine, path: "/v1/machines/web/restart", body: `{"timeout_ms":1,"boot_timeout_ms":120000}`},
		{op: api.OpKillMachine, path: "/v1/machines/web/kill", body: `{"signal":"KILL"}`},
		{op: api.OpMachine, path: "/v1/machines/web"},
		{op: api.OpLogs, path: "/v1/machines/web/logs"},
		{op: api.OpRemoveMachine, path: "/v1/machines/web?force=1"},
	})
	run := h.converse(
		t,
		call{
			op:   api.OpRun,
			path: "/v1/machines/run",
			body: `{"machine":{"auto_remove":true},"argv":["true"],"boot_timeout_ms":120000}`,
		},
	)
	if last := run[len(run)-1]; string(last.Payload) != `{"code":0}` ||
		!slices.ContainsFunc(run, func(f api.Frame) bool { return f.Type == api.FrameStarted }) {
		t.Errorf("run ends with %s after %d frames", last.Payload, len(run))
	}
	if err := h.hold(t, call{op: api.OpLeaseMachine, path: "/v1/machines/plain/lease"}).Close(); err != nil {
		t.Error(err)
	}
}

// testReplaced asks a daemon that makes way, which waits for a load that goes on.
func (h *home) testReplaced(t *testing.T) {
	archive, feed := io.Pipe()
	load, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://banger/v1/images/load", archive)
	if err != nil {
		t.Fatal(err)
	}
	began, loaded := make(chan struct{}), make(chan error, 1)
	go func() {
		response, err := h.http.Do(load)
		close(began)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		loaded <- err
	}()
	if _, err := feed.Write([]byte{0x28, 0xb5, 0x2f, 0xfd}); err != nil {
		t.Fatal(err)
	}
	<-began // it answers with its first stage
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		h.ask(t, call{op: api.OpStopDaemon, path: "/v1/daemon/stop", body: `{"drain":true}`})
	}()
	var status api.DaemonStatus
	for !status.Draining {
		if err := json.Unmarshal(h.ask(t, call{op: api.OpStatus, path: "/v1/daemon"}), &status); err != nil {
			t.Fatal(err)
		}
	}
	h.askAll(t, []call{
		{op: api.OpMachines, path: "/v1/machines"},
		{op: api.OpRemoveImage, path: "/v1/images/again", code: api.CodeReplaced},
		{op: api.OpCreateMachine, path: "/v1/machines", body: `{}`, code: api.CodeReplaced},
	})
	if err := feed.Close(); err != nil {
		t.Error(err)
	}
	if err := <-loaded; err != nil {
		t.Errorf("the load ended with %v", err)
	}
	<-stopped
}
