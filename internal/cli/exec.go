package cli

import (
	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) execCommand() *cobra.Command {
	var interactive, tty bool
	var env []string
	var dir, user string
	cmd := &cobra.Command{
		Use:   "exec [flags] NAME -- COMMAND...",
		Short: "Run a command in a running machine",
		Long: `Run a command in a running machine. The exit code is the command's; 128+n when signal n ended it.

An image from a registry may say in which environment and directory and as which user commands run; the flags go before.`,
		Example: `  banger exec web -- uname -a
  banger exec -it web -- bash
  banger exec -i web -- sh -c 'cat > /tmp/x' < file
  banger exec -e LANG=C -w /srv -u www-data web -- ls`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeOneVM,
		RunE: func(cmd *cobra.Command, given []string) error {
			name, argv := given[0], given[1:]
			if len(argv) > 0 && argv[0] == "--" {
				argv = argv[1:]
			}
			if len(argv) == 0 {
				return badUsage(cmd, "no command given; for a shell there is: banger shell %s", name)
			}
			e := api.Exec{Machine: name, Argv: argv, Env: a.expandEnv(env), Dir: dir, User: user}
			return a.session(cmd.Context(), e, sessionOptions{stdin: interactive, tty: tty})
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows NAME belongs to the command, also without --
	flags.BoolVarP(&interactive, "interactive", "i", false, "give the command this standard input")
	flags.BoolVarP(&tty, "tty", "t", false, "give the command a pseudo terminal")
	flags.StringArrayVarP(&env, "env", "e", nil, "environment, NAME=VALUE, or NAME for the value here; many")
	flags.StringVarP(&dir, "workdir", "w", "", "directory to run in (default: the image's, or the user's home)")
	flags.StringVarP(&user, "user", "u", "", "user to run as: name, uid, name:group or uid:gid (default: the image's, or root)")
	return cmd
}

func (a *app) shellCommand() *cobra.Command {
	var dir, user string
	cmd := &cobra.Command{
		Use:               "shell NAME",
		Short:             "Open a login shell in a running machine",
		Example:           "  banger shell web",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOneVM,
		RunE: func(cmd *cobra.Command, given []string) error {
			shell := api.Exec{Machine: given[0], Dir: dir, User: user}
			return a.session(cmd.Context(), shell, sessionOptions{stdin: true, tty: a.onTerminal()})
		},
	}
	cmd.Flags().StringVarP(&dir, "workdir", "w", "", "directory to start in (default: the image's, or the user's home)")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user whose shell it is (default: the image's, or root)")
	return cmd
}
