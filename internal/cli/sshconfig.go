package cli

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/internal/ssh"
)

func (a *app) sshConfigCommand() *cobra.Command {
	var install, uninstall bool
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print, install or remove what lets ssh, scp, rsync and editors reach NAME.vm",
		Long: `Print the configuration that lets ssh NAME.vm, scp, rsync, git and editors reach machines, through the agent and
without a route or root. With --install it is written into banger's home folder, and an Include for it goes to the top
of ~/.ssh/config; --uninstall takes both back, to the byte.`,
		Example: `  banger ssh-config               # look at it
  banger ssh-config --install     # then: ssh web.vm, scp file web.vm:, rsync -a src web.vm:
  banger ssh-config --uninstall`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if install && uninstall {
				return badUsage(cmd, "--install and --uninstall are opposites")
			}
			dir := ssh.HomeDir(a.config.Home)
			if uninstall {
				return a.uninstallSSHConfig(dir)
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find banger itself: %w", err)
			}
			text, err := dir.ConfigText(a.config.Home, self)
			if err != nil {
				return err
			}
			if !install {
				_, err = io.WriteString(a.Stdout, text)
				return err
			}
			return a.installSSHConfig(dir, text)
		},
	}
	cmd.Flags().BoolVar(&install, "install", false, "have ~/.ssh/config include it")
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "take it back")
	return cmd
}

func (a *app) installSSHConfig(dir ssh.Dir, text string) error {
	config, err := a.userSSHConfig()
	if err != nil {
		return err
	}
	if _, err := dir.EnsureKey(); err != nil {
		return err
	}
	changed, err := dir.Install(config, text)
	if err != nil {
		return err
	}
	included := "includes it already"
	if changed {
		included = "includes it now, by its first lines"
	}
	_, err = fmt.Fprintf(a.Stdout, "wrote %s\n%s %s\n", dir.Config(), config, included)
	return err
}

func (a *app) uninstallSSHConfig(dir ssh.Dir) error {
	config, err := a.userSSHConfig()
	if err != nil {
		return err
	}
	changed, err := dir.Uninstall(config)
	if err != nil {
		return err
	}
	done := "did not include this home's machines"
	if changed {
		done = "is as it was before"
	}
	_, err = fmt.Fprintf(a.Stdout, "%s %s\n", config, done)
	return err
}

// userSSHConfig is ~/.ssh/config. ssh itself asks the password database for the home, so where
// $HOME is another folder this says how to have ssh read the file.
func (a *app) userSSHConfig() (string, error) {
	home := a.Getenv("HOME")
	u, err := user.Current()
	if err != nil && home == "" {
		return "", fmt.Errorf("find home folder: %w", err)
	}
	if home == "" {
		home = u.HomeDir
	}
	path := filepath.Join(home, ".ssh", "config")
	if err == nil && home != u.HomeDir {
		fmt.Fprintf(a.Stderr, "banger: HOME is %s, but ssh reads its configuration in %s; there is: ssh -F %s\n", home, u.HomeDir, path)
	}
	return path, nil
}
