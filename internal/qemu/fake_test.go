package qemu

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeAct names in the environment of this test's program what it is to do as a QEMU.
const fakeAct = "QEMU_TEST_FAKE"

// fakeBinary is a QEMU that speaks QMP as the real one does and has no machine: what it does once
// it is to run is in act, see playQEMU. It stands for hosts and guests that are not at hand.
func fakeBinary(t *testing.T, act string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	script := fmt.Sprintf("#!/bin/sh\nexport %s='%s'\nexec %s \"$@\"\n", fakeAct, act, os.Args[0])
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// playQEMU is the fake's main. It answers each command with success. An act is a list of words:
// "version X" is what --version says; the others come after a command, "capabilities" by itself and
// all else after cont.
//
//	say TEXT     on the console
//	complain X   on stderr
//	end REASON   tell of a shutdown with that reason
//	refuse X     answer the command X with an error
//	capabilities what follows comes after the first command
//	exit N       end
func playQEMU(act string, args []string) int {
	steps := strings.Split(act, "; ")
	if slices.Contains(args, "--version") {
		version := "10.0.2"
		for _, step := range steps {
			if v, ok := strings.CutPrefix(step, "version "); ok {
				version = v
			}
		}
		fmt.Printf("QEMU emulator version %s\n", version)
		return 0
	}
	monitor := os.NewFile(firstFD, "monitor")
	fmt.Fprintln(monitor, `{"QMP":{"version":{},"capabilities":[]}}`)
	lines := bufio.NewScanner(monitor)
	for lines.Scan() {
		var command struct {
			Execute string
			ID      int
		}
		if err := json.Unmarshal(lines.Bytes(), &command); err != nil {
			return 99
		}
		if slices.Contains(steps, "refuse "+command.Execute) {
			fmt.Fprintf(monitor, `{"id":%d,"error":{"class":"GenericError","desc":"not %s"}}`+"\n", command.ID, command.Execute)
			continue
		}
		first := command.Execute == "qmp_capabilities" && slices.Contains(steps, "capabilities")
		if !first {
			fmt.Fprintf(monitor, `{"id":%d,"return":{}}`+"\n", command.ID)
		}
		if first || command.Execute == "cont" {
			if code, ended := playSteps(monitor, steps); ended {
				return code
			}
		}
	}
	return 0
}

func playSteps(monitor io.Writer, steps []string) (code int, ended bool) {
	for _, step := range steps {
		verb, rest, _ := strings.Cut(step, " ")
		switch verb {
		case "say":
			fmt.Println(rest)
		case "complain":
			fmt.Fprintln(os.Stderr, rest)
		case "end":
			fmt.Fprintf(monitor, `{"event":"SHUTDOWN","data":{"guest":true,"reason":"%s"}}`+"\n", rest)
		case "exit":
			fmt.Sscan(rest, &code)
			return code, true
		}
	}
	return 0, false
}

// recorder is a QEMU that writes down what it is asked, and refuses one command.
type recorder struct {
	commands []string // "name arguments"
	refuse   string
	answer   string // of what is not refused; {} if empty
}

// machine is one whose monitor is the recorder.
func (r *recorder) machine(t *testing.T) *Machine {
	t.Helper()
	monitor := fakeQEMU(t, func(Event) {}, func(n int, line string) string {
		var command struct {
			Execute   string
			Arguments json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &command); err != nil {
			t.Error(err)
		}
		r.commands = append(r.commands, strings.TrimSpace(command.Execute+" "+string(command.Arguments)))
		if command.Execute == r.refuse {
			return fmt.Sprintf(`{"id":%d,"error":{"class":"GenericError","desc":"refused"}}`, n)
		}
		answer := r.answer
		if answer == "" {
			answer = "{}"
		}
		return fmt.Sprintf(`{"id":%d,"return":%s}`, n, answer)
	})
	return &Machine{Monitor: monitor, drives: map[string]*driveFiles{}}
}
