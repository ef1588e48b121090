package control

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/guest"
)

func TestExecSpec(t *testing.T) {
	image := api.ImageDefaults{Env: []string{"A=image", "B=image"}, WorkDir: "/srv", User: "www", Entrypoint: []string{"never"}, Cmd: []string{"never"}}
	for _, test := range []struct {
		name string
		exec api.Exec
		want guest.ExecSpec
	}{
		{"Image", api.Exec{Argv: []string{"ls"}}, guest.ExecSpec{Argv: []string{"ls"}, Env: []string{"A=image", "B=image", "B=vm"}, Dir: "/srv", User: "www", NoStdin: true}},
		{
			"CallerWins",
			api.Exec{Env: []string{"A=call"}, Dir: "/", User: "root", Stdin: true, TTY: &api.TTY{Rows: 1, Cols: 2, Term: "x"}},
			guest.ExecSpec{Env: []string{"A=image", "B=image", "B=vm", "A=call"}, Dir: "/", User: "root", Terminal: &guest.Terminal{Rows: 1, Cols: 2, Term: "x"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, execSpec(test.exec, []string{"B=vm"}, image)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
