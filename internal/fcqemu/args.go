package fcqemu

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// options are the command line.
type options struct {
	apiSocket   string
	id          string
	configFile  string
	noAPI       bool
	logger      loggerConfig
	metricsPath string
	maxBody     int64
	probing     bool   // --probe-accel was given
	probe       string // its kernel; empty: QEMU alone is looked at

	help, version, snapshotVersion bool
	describeSnapshot               string
}

const usage = `firecracker-qemu: Firecracker's API, on QEMU where there is no KVM.

    --api-sock PATH                   socket of the API [/run/firecracker.socket]
    --id ID                           name of the microVM [anonymous-instance]
    --config-file PATH                JSON with the whole configuration; the microVM starts at once
    --no-api                          no API; needs --config-file
    --log-path PATH, --level LEVEL, --module MODULE, --show-level, --show-log-origin
    --metrics-path PATH
    --http-api-max-payload-size N     bytes of a request's body [51200]
    --version, --help
    --probe-accel VMLINUX             (not Firecracker's) print as JSON how guests with this kernel run here, and why;
                                      "" looks at QEMU alone

Accepted and without effect: --no-seccomp, --seccomp-filter, --boot-timer, --start-time-us, --start-time-cpu-us, --parent-cpu-time-us, --mmds-size-limit.
Environment: FIRECRACKER_QEMU_ACCEL=auto|kvm|tcg, FIRECRACKER_QEMU_BINARY (QEMU's path).
`

// ignoredValues take a value that means nothing here.
var ignoredValues = []string{"--seccomp-filter", "--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us", "--mmds-size-limit"}

// parseArgs knows Firecracker's command line. Errors are worded as Firecracker's.
func parseArgs(args []string) (options, error) {
	o := options{apiSocket: "/run/firecracker.socket", id: "anonymous-instance", maxBody: defaultMaxBody}
	payload := ""
	yes := true
	values := map[string]*string{
		"--api-sock": &o.apiSocket, "--id": &o.id, "--config-file": &o.configFile, "--metrics-path": &o.metricsPath,
		"--describe-snapshot": &o.describeSnapshot, "--http-api-max-payload-size": &payload, "--probe-accel": &o.probe,
		"--log-path": new(string), "--level": new(string), "--module": new(string), "--metadata": new(string),
	}
	for _, name := range ignoredValues {
		values[name] = new(string)
	}
	flags := map[string]*bool{
		"--no-api": &o.noAPI, "--help": &o.help, "--version": &o.version, "--snapshot-version": &o.snapshotVersion,
		"--show-level": new(bool), "--show-log-origin": new(bool), "--no-seccomp": new(bool), "--boot-timer": new(bool),
		"--enable-pci": new(bool),
	}
	var seen []string
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		name := args[i]
		if slices.Contains(seen, name) {
			return o, fmt.Errorf("The argument '%s' was provided more than once.", strings.TrimPrefix(name, "--"))
		}
		seen = append(seen, name)
		if flag := flags[name]; flag != nil {
			*flag = true
			continue
		}
		value := values[name]
		if value == nil {
			return o, fmt.Errorf(
				"Found argument '%s' which wasn't expected, or isn't valid in this context.",
				strings.TrimPrefix(name, "--"),
			)
		}
		if i++; i == len(args) {
			return o, fmt.Errorf("The argument '%s' requires a value, but none was supplied.", strings.TrimPrefix(name, "--"))
		}
		*value = args[i]
	}
	for name, field := range map[string]**string{
		"--log-path": &o.logger.LogPath, "--level": &o.logger.Level, "--module": &o.logger.Module,
	} {
		if slices.Contains(seen, name) {
			*field = values[name]
		}
	}
	o.probing = slices.Contains(seen, "--probe-accel")
	if *flags["--show-level"] {
		o.logger.ShowLevel = &yes
	}
	return o, o.check(seen, payload, *flags["--enable-pci"])
}

func (o *options) check(seen []string, payload string, pci bool) error {
	given := func(name string) bool { return slices.Contains(seen, name) }
	switch {
	case o.noAPI && o.configFile == "":
		return fmt.Errorf("Argument 'no-api' requires 'config-file' to be provided.")
	case given("--no-seccomp") && given("--seccomp-filter"):
		return fmt.Errorf("Argument 'no-seccomp' cannot be used together with argument 'seccomp-filter'.")
	case pci:
		return fmt.Errorf("enable-pci is not supported by firecracker-qemu.")
	case given("--metadata"):
		return fmt.Errorf("metadata is not supported by firecracker-qemu: it has no MMDS.")
	case !validID(o.id):
		return fmt.Errorf("Invalid instance ID: %.70q must be 1 to 64 characters, alphanumeric or '-'.", o.id)
	}
	if payload != "" {
		n, err := strconv.ParseInt(payload, 10, 32)
		if err != nil || n <= 0 {
			return fmt.Errorf("'http-api-max-payload-size' parameter expected to be a positive integer.")
		}
		o.maxBody = n
	}
	return nil
}

func validID(id string) bool {
	allowed := func(r rune) bool {
		return r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	return len(id) >= 1 && len(id) <= 64 && !strings.ContainsFunc(id, func(r rune) bool { return !allowed(r) })
}
