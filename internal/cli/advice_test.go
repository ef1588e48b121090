package cli

import (
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

// remedies are operations that errors offer, with inputs as they may have.
var remedies = []api.Remedy{
	api.OpMachines.Remedy(api.None{}, "x"),
	api.OpMachine.Remedy(api.MachineRef{Machine: "web"}, "x"),
	api.OpStartMachine.Remedy(api.StartMachine{Machine: "web"}, "x"),
	api.OpStopMachine.Remedy(api.StopMachine{Machine: "web"}, "x"),
	api.OpKillMachine.Remedy(api.KillMachine{Machine: "web"}, "x"),
	api.OpKillMachine.Remedy(api.KillMachine{Machine: "web", Signal: "TERM"}, "x"),
	api.OpRemoveMachine.Remedy(api.RemoveMachine{Machine: "web"}, "x"),
	api.OpRemoveMachine.Remedy(api.RemoveMachine{Machine: "web", Force: true}, "x"),
	api.OpLogs.Remedy(api.Logs{Machine: "web"}, "x"),
	api.OpLogs.Remedy(api.Logs{Machine: "web", Follow: true}, "x"),
	api.OpPorts.Remedy(api.MachineRef{Machine: "web"}, "x"),
	api.OpExec.Remedy(api.Exec{Machine: "web"}, "x"),
	api.OpExec.Remedy(api.Exec{Machine: "web", Argv: []string{"journalctl", "-u", "my service", "it's", ""}}, "x"),
	api.OpAddForward.Remedy(api.AddForward{Machine: "web", GuestPort: 80}, "x"),
	api.OpAddForward.Remedy(
		api.AddForward{Machine: "web", Protocol: api.UDP, Host: netip.MustParseAddr("::1"), HostPort: 53, GuestPort: 54},
		"x",
	),
	api.OpRemoveForward.Remedy(api.RemoveForward{Machine: "web", HostPort: 8080}, "x"),
	api.OpRemoveForward.Remedy(
		api.RemoveForward{Machine: "web", Protocol: api.UDP, Host: netip.MustParseAddr("0.0.0.0"), HostPort: 53},
		"x",
	),
	api.OpRemoveForward.Remedy(api.RemoveForward{Machine: "web", Host: netip.MustParseAddr("::1"), HostPort: 53}, "x"),
	api.OpImages.Remedy(api.None{}, "x"),
	api.OpPullImage.Remedy(api.PullImage{Source: "oci:alpine"}, "x"),
	api.OpPullImage.Remedy(api.PullImage{Source: "tar:/a b.tar", Name: "mine"}, "x"),
	api.OpBuildLog.Remedy(api.BuildLog{Image: "mine"}, "x"),
	api.OpBuildLog.Remedy(api.BuildLog{Image: "mine", Follow: true}, "x"),
	api.OpRemoveImage.Remedy(api.ImageRef{Image: "mine"}, "x"),
	api.OpRegisterImage.Remedy(api.RegisterImage{Name: "mine", Rootfs: "/a b.ext4"}, "x"),
	api.OpKernels.Remedy(api.None{}, "x"),
	api.OpPullKernel.Remedy(api.PullKernel{Source: "debian:trixie"}, "x"),
	api.OpPullKernel.Remedy(api.PullKernel{Source: "https://example/vmlinux", SHA256: "00", Name: "mine"}, "x"),
	api.OpStopDaemon.Remedy(api.StopDaemon{}, "x"),
}

// partial are operations whose command is one to be completed by the user, or shows more than the
// operation, so that there is nothing to run.
var partial = map[string]string{
	api.OpImportKernel.Name: "of which kernel, the user knows",
	api.OpBuildImage.Name:   "with what, the user's own command line says",
	api.OpStatus.Name:       "it is asked for its settings, which config show has",
	api.OpPrepareSSH.Name:   "ssh runs a program of the host",
}

// The command that stands for a remedy does what the remedy says.
func TestRemedyCommands(t *testing.T) {
	for _, r := range remedies {
		line := commandOf(r)
		t.Run(line, func(t *testing.T) {
			got, result := requestOf(t, shellWords(t, line)[1:])
			if result.code == exitUsage || len(got) == 0 {
				t.Fatalf("%s: no request was made: %+v", line, result)
			}
			want := known(api.Remedy{Operation: r.Operation, Input: r.Input})
			if diff := cmp.Diff(want, got[len(got)-1]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", line, diff)
			}
		})
	}
}

// shellWords is how a shell splits a line that a user pastes.
func shellWords(t *testing.T, line string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `for word in `+line+`; do printf '%s\0' "$word"; done`).
		Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// requestOf runs a command and returns what it asked of the daemon, in the form of remedies.
func requestOf(t *testing.T, args []string) ([]map[string]any, result) {
	t.Helper()
	var asked []map[string]any
	handlers := map[string]http.HandlerFunc{}
	for _, op := range api.Operations {
		spec := op.Describe()
		if spec.Name == api.OpStatus.Name {
			continue
		}
		in, _ := op.Types()
		handlers[spec.Route] = func(w http.ResponseWriter, r *http.Request) {
			input := map[string]json.RawMessage{}
			body, _ := io.ReadAll(r.Body)
			_ = json.Unmarshal(body, &input) // where there is a body
			for _, f := range api.InputFields(in) {
				text := r.PathValue(f.Name)
				if f.Place == "query" {
					text = r.URL.Query().Get(f.Name)
				}
				if text != "" {
					raw, _ := json.Marshal(text)
					input[f.Name] = raw
				}
			}
			asked = append(asked, known(api.Remedy{Operation: spec.Name, Input: input}))
			switch {
			case spec.Name == api.OpMachine.Name:
				says(api.Machine{ID: "web", Name: "web"})(w, r)
			case spec.Right == api.RightRead && spec.Kind == api.KindUnary:
				says([]api.Machine{})(w, r)
			default:
				refuses(api.Errorf(api.CodeConflict, "enough is known"))(w, r)
			}
		}
	}
	got := banger(t, fakeDaemon(t, handlers), args...)
	return asked, got
}

// defaults are what commands say of a request besides what they were told.
var defaults = map[string]any{
	"boot_timeout_ms": float64(
		120000,
	), "timeout_ms": float64(60000), "stdin": true, "host": "127.0.0.1", "protocol": "tcp",
	"signal": "KILL", "argv": []any(nil),
}

// known puts a request into a form in which two can be compared: without what is the default
// anyway.
func known(r api.Remedy) map[string]any {
	all := map[string]any{"operation": r.Operation}
	for key, raw := range r.Input {
		var value any
		_ = json.Unmarshal(raw, &value) // it was written by us
		if text, ok := value.(string); ok {
			_ = json.Unmarshal([]byte(text), &value) // a number or truth that stood in a URL
		}
		if !cmp.Equal(value, defaults[key]) {
			all[key] = value
		}
	}
	return all
}

// Every operation that some error offers has a command, and is tried above or is named with a
// reason why not.
func TestEveryRemedyHasCommand(t *testing.T) {
	tried := map[string]bool{}
	for _, r := range remedies {
		tried[r.Operation] = true
	}
	offered := regexp.MustCompile(`\bOp(\w+)\.Remedy\(`)
	count := 0
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range offered.FindAllStringSubmatch(string(code), -1) {
			count++
			name := match[1]
			if !tried[name] && partial[name] == "" {
				t.Errorf("%s offers %s, which no test tries", path, name)
			}
		}
		return nil
	})
	if err != nil || count < 10 {
		t.Errorf("%d remedies were found, %v", count, err)
	}
	for _, op := range api.Operations {
		name := op.Describe().Name
		if got := commandOf(api.Remedy{Operation: name}); got == "" && (tried[name] || partial[name] != "") {
			t.Errorf("%s has no command", name)
		}
	}
}

func TestAdvice(t *testing.T) {
	e := api.Errorf(api.CodeConflict, "taken").WithHint("sudo rm it").
		WithRemedy(api.OpRemoveMachine.Remedy(api.RemoveMachine{Machine: "web"}, "remove it")).WithRemedy(api.Remedy{Text: "wait"}).
		WithRemedy(api.Remedy{Text: "dance", Operation: "Nonsense"}).
		WithRemedy(api.Remedy{Text: "stop it", Operation: "StopMachine", Input: map[string]json.RawMessage{"newer": []byte("1")}})
	want := []string{"remove it: banger rm web", "wait", "dance", "stop it", "sudo rm it"}
	if diff := cmp.Diff(want, advice(e)); diff != "" {
		t.Errorf("advice (-want +got):\n%s", diff)
	}
}
