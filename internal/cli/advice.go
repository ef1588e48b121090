package cli

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"banger/api"
)

// advice returns what a person can do about an error, a line each. Operations are shown as the
// commands that do them.
func advice(e *api.Error) []string {
	var lines []string
	for _, r := range e.Remedies {
		lines = append(lines, remedyWords(r))
	}
	if e.Hint != "" {
		lines = append(lines, e.Hint)
	}
	return lines
}

// remedyWords shows a remedy as what it does and the command for it.
func remedyWords(r api.Remedy) string {
	command := commandOf(r)
	if command == "" {
		return r.Text
	}
	return fmt.Sprintf("%s: %s", r.Text, command)
}

// commandOf returns the command line of an operation that remedies name, or "" for one that has
// none.
func commandOf(r api.Remedy) string {
	for _, line := range commandLines {
		if command, ok := line(r); ok {
			return "banger " + command
		}
	}
	return ""
}

// commandLines has the command of each operation that an error may offer. What comes from outside
// is a word of its own whatever it holds, for the line is there to be pasted.
var commandLines = []func(api.Remedy) (string, bool){
	line(api.OpMachines, func(api.None) string { return "ls" }),
	line(api.OpStartMachine, func(in api.StartMachine) string { return words("start", in.Machine) }),
	line(api.OpStopMachine, func(in api.StopMachine) string { return words("stop", in.Machine) }),
	line(api.OpKillMachine, func(in api.KillMachine) string { return words("kill", in.Machine) + option("--signal", in.Signal) }),
	line(api.OpRemoveMachine, func(in api.RemoveMachine) string { return "rm " + flag(in.Force, "-f ") + words(in.Machine) }),
	line(api.OpLogs, func(in api.Logs) string { return "logs " + flag(in.Follow, "-f ") + words(in.Machine) }),
	line(api.OpPorts, func(in api.MachineRef) string { return words("ports", in.Machine) }),
	line(api.OpExec, execLine),
	line(api.OpAddForward, func(in api.AddForward) string {
		return words("forward", in.Machine, listensOn(in.Protocol, in.Host, in.HostPort, ":"+strconv.Itoa(int(in.GuestPort))))
	}),
	line(api.OpRemoveForward, func(in api.RemoveForward) string {
		return words("forward", "rm", in.Machine, listensOn(in.Protocol, in.Host, in.HostPort, ""))
	}),
	line(api.OpMachine, func(in api.MachineRef) string { return words("inspect", in.Machine) }),
	line(api.OpPrepareSSH, func(in api.PrepareSSH) string {
		return "ssh " + flag(in.NewHostKey, "--new-host-key ") + words(in.Machine)
	}),
	line(api.OpImages, func(api.None) string { return "image ls" }),
	line(api.OpPullImage, func(in api.PullImage) string {
		return words("image", "pull", in.Source) + option("--name", in.Name)
	}),
	line(api.OpBuildLog, func(in api.BuildLog) string { return "image logs " + flag(in.Follow, "-f ") + words(in.Image) }),
	line(api.OpKernels, func(api.None) string { return "kernel ls" }),
	line(api.OpPullKernel, func(in api.PullKernel) string {
		return "kernel pull" + option("", in.Source) + option("--sha256", in.SHA256) + option("--name", in.Name)
	}),
	line(api.OpImportKernel, func(in api.ImportKernel) string { return "kernel import" + option("", in.Name) }),
	line(api.OpRegisterImage, func(in api.RegisterImage) string {
		return words("image", "register", in.Name, "--rootfs", in.Rootfs)
	}),
	line(api.OpRemoveImage, func(in api.ImageRef) string { return words("image", "rm", in.Image) }),
	line(api.OpBuildImage, buildLine),
	line(api.OpStopDaemon, func(in api.StopDaemon) string { return "daemon stop" + flag(in.Drain, " --drain") }),
	line(api.OpStatus, func(api.None) string { return "config show" }), // which has the settings
}

// line ties an operation to its command.
func line[In, Out any](op api.Op[In, Out], write func(In) string) func(api.Remedy) (string, bool) {
	return func(r api.Remedy) (string, bool) {
		in, ok := op.Input(r)
		if !ok {
			return "", false
		}
		return write(in), true
	}
}

// buildLine repeats a build with all that it was asked for; what is as the settings have it stays
// out.
func buildLine(in api.BuildImage) string {
	var text strings.Builder
	text.WriteString("image build" + flag(in.KeepOnFailure, " --keep-on-failure") +
		flag(in.Force, " --force") + flag(in.Docker, " --docker"))
	text.WriteString(option("--from", in.From) + option("--preset", string(in.Preset)))
	for _, many := range []struct {
		flag   string
		values []string
	}{{"--package", in.Packages}, {"--script", in.Scripts}} {
		for _, value := range many.values {
			text.WriteString(option(many.flag, value))
		}
	}
	for _, file := range in.Files {
		text.WriteString(option("--file", file.Host+":"+file.Guest))
	}
	if in.SizeMiB != 0 {
		text.WriteString(option("--size", strconv.Itoa(in.SizeMiB)+"MiB"))
	}
	if in.CPUs != 0 {
		text.WriteString(option("--cpus", strconv.Itoa(in.CPUs)))
	}
	if in.MemoryMiB != 0 {
		text.WriteString(option("--memory", strconv.Itoa(in.MemoryMiB)+"MiB"))
	}
	return text.String() + option("", in.Name)
}

func execLine(in api.Exec) string {
	if len(in.Argv) == 0 {
		return words("shell", in.Machine)
	}
	return words("exec", in.Machine, "--") + " " + words(in.Argv...)
}

// listensOn writes where a forward listens, as the commands take it; to stands behind the port.
func listensOn(protocol api.Protocol, host netip.Addr, port uint16, to string) string {
	text := strconv.Itoa(int(port))
	if host.IsValid() {
		text = netip.AddrPortFrom(host, port).String()
	}
	text += to
	if protocol == api.UDP {
		text += "/udp"
	}
	return text
}

func flag(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

// option is a flag with its value, or a value alone, that is left out when it is empty.
func option(flag, value string) string {
	switch {
	case value == "":
		return ""
	case flag == "":
		return " " + words(value)
	}
	return " " + words(flag, value)
}

// plain are words that a shell takes as they are.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// words joins words so that a shell splits them again.
func words(all ...string) string {
	quoted := make([]string, len(all))
	for i, word := range all {
		if quoted[i] = word; !plain.MatchString(word) {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
