package fcqemu

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"

	"banger/internal/qemu/qemutest"
)

// A run that cannot start says why where Firecracker says it, and ends with Firecracker's exit
// code.
func TestCommandLine(t *testing.T) {
	kernel := qemutest.Kernel(t)
	tests := []struct {
		name, args, config string
		code               int
		want               []string // in stdout or stderr
	}{
		{"version", "--version", "", 0, []string{"Firecracker v1.16.1\n\n"}},
		{"repeated", "--id a --id a", "", exitArguments, []string{"Arguments parsing error: The argument 'id' was provided more than once."}},
		{"unknown", "--foo", "", exitArguments, []string{"Found argument 'foo' which wasn't expected"}},
		{"no-api alone", "--no-api", "", exitArguments, []string{"Argument 'no-api' requires 'config-file' to be provided."}},
		{"level", "--api-sock api --level Loud", "", exitBadConfig, []string{"Invalid value for logger level: Loud", "exit_code=152"}},
		{"log path", "--api-sock api --log-path /nope/log", "", exitGeneric, []string{"Could not initialize logger", "No such file or directory (os error 2)", "exit_code=1\n"}},
		{"metrics path", "--api-sock api --metrics-path /nope/m", "", exitGeneric, []string{"Could not initialize metrics", "No such file or directory (os error 2)"}},
		{"no file", "--no-api --config-file nope", "", exitGeneric, []string{"Unable to open or read from the configuration file: No such file or directory (os error 2)"}},
		{"file too large", "--no-api --config-file config", strings.Repeat(" ", maxConfigFile+1), exitGeneric, []string{"larger than 1048576 bytes"}},
		{"not JSON", "--no-api --config-file config", "x", exitGeneric, []string{"RunWithoutApiError error: Failed to build MicroVM from Json: Configuration for VMM from one single json failed: "}},
		{"not JSON, API", "--api-sock api --config-file config", "x", exitGeneric, []string{"RunWithApiError error: Failed to build MicroVM from Json: ", "Firecracker exiting with error. exit_code=1\n"}},
		{"unknown key", "--no-api --config-file config", `{"boot_source":{}}`, exitGeneric, []string{"unknown field `boot_source`, expected one of `balloon`, `boot-source`"}},
		{"serial is none", "--no-api --config-file config", `{"serial":{}}`, exitGeneric, []string{"unknown field `serial`"}},
		{"no boot source", "--no-api --config-file config", `{"drives":[]}`, exitGeneric, []string{"missing field `boot-source`"}},
		{"no drives", "--no-api --config-file config", `{"boot-source":{"kernel_image_path":"` + kernel + `"}}`, exitGeneric, []string{"missing field `drives`"}},
		{
			"bad machine", "--no-api --config-file config", `{"boot-source":{"kernel_image_path":"` + kernel + `"},"drives":[],"machine-config":{"vcpu_count":0,"mem_size_mib":128}}`,
			exitGeneric,
			[]string{"Configuration for VMM from one single json failed: Machine config error: The number of vCPUs must be"},
		},
		{
			"bad drive", "--no-api --config-file config", `{"boot-source":{"kernel_image_path":"` + kernel + `"},"drives":[{"drive_id":"a b","is_root_device":false,"path_on_host":"x"}]}`,
			exitGeneric,
			[]string{"API Resource IDs can only contain"},
		},
		{"unbuilt", "--no-api --config-file config", `{"boot-source":{"kernel_image_path":"` + kernel + `"},"drives":[],"mmds-config":{}}`, exitGeneric, []string{"mmds-config is not supported"}},
		{"not a kernel", "--no-api --config-file config", `{"boot-source":{"kernel_image_path":"/etc/passwd"},"drives":[]}`, exitGeneric, []string{"Could not Start MicroVM from one single json: Start microvm error: Cannot load kernel"}},
		{"another program", "--no-api --config-file config", `{"boot-source":{"kernel_image_path":"/proc/self/exe"},"drives":[]}`, exitGeneric, []string{"Could not Start MicroVM from one single json: Start microvm error: "}},
		{"first error alone", "--no-api --config-file config", `{"boot-source":{"kernel_image_path":"/nope"},"drives":[{"drive_id":"a","is_root_device":true}]}`, exitGeneric, []string{"(os error 2)\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := strings.Fields(tt.args)
			if tt.config != "" {
				args[len(args)-1] = file(t, tt.config)
			}
			p := run(t, nil, args...)
			code, got := p.exit(t), p.stdout.String()+p.stderr.String()
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("got %s\nwant %q", got, want)
				}
			}
		})
	}
}

func TestVersionExactly(t *testing.T) {
	p := run(t, nil, "--version")
	p.exit(t)
	if got, want := p.stdout.String(), "Firecracker v1.16.1\n\n"; got != want || p.stderr.String() != "" {
		t.Errorf("got %q and %q, want %q", got, p.stderr.String(), want)
	}
}

// The socket's file outlives the program, and the next one refuses to take it over.
func TestSocketFile(t *testing.T) {
	p := serve(t, nil)
	p.cmd.Process.Kill()
	p.exit(t)
	if info, err := os.Stat(p.path("api")); err != nil || info.Mode().Type() != os.ModeSocket {
		t.Fatalf("the socket after the end: %v, %v", info, err)
	}
	next := run(t, nil, "--api-sock", p.path("api"))
	if code := next.exit(t); code != exitGeneric {
		t.Errorf("exit code %d, want 1", code)
	}
	want := "Failed to open the API socket at: " + p.path("api") + ". Check that it is not already used."
	if got := next.stdout.String(); !strings.Contains(got, "RunWithApiError error: "+want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if _, err := net.Dial("unix", p.path("api")); err == nil {
		t.Error("somebody serves the old socket")
	}
}

func configFile(t *testing.T, p *program, change func(map[string]any)) string {
	t.Helper()
	config := map[string]any{
		"boot-source":    map[string]any{"kernel_image_path": qemutest.Kernel(t), "initrd_path": qemutest.Initrd(t), "boot_args": qemutest.BootArgs},
		"drives":         []any{},
		"machine-config": map[string]any{"vcpu_count": 1, "mem_size_mib": 256},
		"vsock":          map[string]any{"guest_cid": 3, "uds_path": p.path("v")},
	}
	if change != nil {
		change(config)
	}
	content, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, string(content))
}

// A file starts the VM at once. With an API beside it the VM is Running from the first answer on.
func TestConfigFile(t *testing.T) {
	p := newProgram(t)
	config := configFile(t, p, func(c map[string]any) {
		c["logger"] = map[string]any{"log_path": p.path("log"), "level": "Debug", "show_level": true}
		c["metrics"] = map[string]any{"metrics_path": p.path("metrics")}
	})
	p.launch(t, nil, "--api-sock", "api", "--config-file", config, "--id", "from-file")
	p.ready(t)
	if got, want := p.must(t, "GET", "/", ""), `"state":"Running"`; !strings.Contains(got, want) || !strings.Contains(got, `"id":"from-file"`) {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := p.refused(t, "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`); got != errPostBoot.Error() {
		t.Error(got)
	}
	if got := p.ask(t, "exec"); got != "done" {
		t.Error(got)
	}
	p.command(t, "poweroff")
	p.exitsCleanly(t, p.path("log"))
	content, err := os.ReadFile(p.path("log"))
	if err != nil {
		t.Fatal(err)
	}
	const want = " [from-file:main:INFO] Successfully started microvm that was configured from one single json\n"
	if !strings.Contains(string(content), want) {
		t.Errorf("the log is %s\nwant %s", content, want)
	}
}
