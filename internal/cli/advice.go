package cli

import (
	"fmt"
	"strconv"

	"banger/api"
)

// advice returns what a person can do about an error, a line each. Operations are shown as the commands that do them.
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

// commandOf returns the command line of an operation that remedies name, or "" for one that has none.
func commandOf(r api.Remedy) string {
	for _, line := range commandLines {
		if command, ok := line(r); ok {
			return "banger " + command
		}
	}
	return ""
}

// commandLines has the command of each operation that an error may offer.
var commandLines = []func(api.Remedy) (string, bool){
	line(api.OpVMs, func(api.None) string { return "ls" }),
	line(api.OpStartVM, func(in api.StartVM) string { return "start " + in.VM }),
	line(api.OpStopVM, func(in api.StopVM) string { return "stop " + in.VM }),
	line(api.OpKillVM, func(in api.KillVM) string { return "kill " + in.VM }),
	line(api.OpRemoveVM, func(in api.RemoveVM) string { return "rm " + flag(in.Force, "-f ") + in.VM }),
	line(api.OpLogs, func(in api.Logs) string { return "logs " + flag(in.Follow, "-f ") + in.VM }),
	line(api.OpPorts, func(in api.VMRef) string { return "ports " + in.VM }),
	line(api.OpExec, execLine),
	line(api.OpAddForward, func(in api.AddForward) string {
		return fmt.Sprintf("forward %s %d:%d", in.VM, in.HostPort, in.GuestPort)
	}),
	line(api.OpRemoveForward, func(in api.RemoveForward) string {
		return "forward rm " + in.VM + " " + strconv.Itoa(int(in.HostPort))
	}),
	line(api.OpVM, func(in api.VMRef) string { return "inspect " + in.VM }),
	line(api.OpPrepareSSH, func(in api.PrepareSSH) string { return "ssh " + flag(in.NewHostKey, "--new-host-key ") + in.VM }),
	line(api.OpImages, func(api.None) string { return "image ls" }),
	line(api.OpPullImage, func(in api.PullImage) string { return "image pull " + in.Source + suffix(" --name ", in.Name) }),
	line(api.OpBuildLog, func(in api.BuildLog) string { return "image logs " + flag(in.Follow, "-f ") + in.Image }),
	line(api.OpKernels, func(api.None) string { return "kernel ls" }),
	line(api.OpPullKernel, func(in api.PullKernel) string { return "kernel pull " + in.Source }),
	line(api.OpImportKernel, func(in api.ImportKernel) string { return "kernel import" + suffix(" ", in.Name) }),
	line(api.OpRegisterImage, func(in api.RegisterImage) string { return "image register " + in.Name + " --rootfs " + in.Rootfs }),
	line(api.OpRemoveImage, func(in api.ImageRef) string { return "image rm " + in.Image }),
	line(api.OpBuildImage, func(in api.BuildImage) string {
		return "image build" + flag(in.KeepOnFailure, " --keep-on-failure") + suffix(" ", in.Name)
	}),
	line(api.OpStopDaemon, func(api.StopDaemon) string { return "daemon stop" }),
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

func execLine(in api.Exec) string {
	if len(in.Argv) == 0 {
		return "shell " + in.VM
	}
	text := "exec " + in.VM + " --"
	for _, arg := range in.Argv {
		text += " " + arg
	}
	return text
}

func flag(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

func suffix(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}
