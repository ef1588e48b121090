package control

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

func TestCommandOf(t *testing.T) {
	words := func(w ...string) []string { return w }
	none, sh := "", "sh"
	for _, test := range []struct {
		name       string
		image      api.ImageDefaults
		argv       []string
		entrypoint *string
		want       []string
	}{
		{"NothingSaid", api.ImageDefaults{}, nil, nil, nil},
		{"CommandOnly", api.ImageDefaults{}, words("ls", "-l"), nil, words("ls", "-l")},
		{"ShellImage", api.ImageDefaults{Cmd: words("/bin/bash")}, nil, nil, nil},
		{"ShellImageWithCommand", api.ImageDefaults{Cmd: words("bash")}, words("ls"), nil, words("ls")},
		{"InitImage", api.ImageDefaults{Cmd: words("/sbin/init")}, nil, nil, nil},
		{"ShellWithScript", api.ImageDefaults{Cmd: words("sh", "-c", "x")}, nil, nil, words("sh", "-c", "x")},
		{"ProgramImage", api.ImageDefaults{Cmd: words("python3")}, nil, nil, words("python3")},
		{"Entrypoint", api.ImageDefaults{Entrypoint: words("git"), Cmd: words("--help")}, nil, nil, words("git", "--help")},
		{"EntrypointAndCommand", api.ImageDefaults{Entrypoint: words("git"), Cmd: words("--help")}, words("status"), nil, words("git", "status")},
		{"EntrypointIsShell", api.ImageDefaults{Entrypoint: words("/bin/sh")}, nil, nil, nil},
		{"NoEntrypoint", api.ImageDefaults{Entrypoint: words("git")}, words("ls"), &none, words("ls")},
		{"NoEntrypointNoCommand", api.ImageDefaults{Entrypoint: words("git"), Cmd: words("status")}, nil, &none, nil},
		{"OtherEntrypoint", api.ImageDefaults{Entrypoint: words("git"), Cmd: words("status")}, words("-c", "ls"), &sh, words("sh", "-c", "ls")},
		{"OtherEntrypointAlone", api.ImageDefaults{Entrypoint: words("git"), Cmd: words("status")}, nil, &sh, words("sh")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, commandOf(test.image, test.argv, test.entrypoint)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
